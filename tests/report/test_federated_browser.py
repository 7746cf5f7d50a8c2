"""The federated page in a real browser: it renders, asks nobody for anything, complains about nothing, fits a phone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_sft.federated.report import of_run

from ..federated import runs  # noqa: TID252 - tests are no package that could be named

HOSTILE = '"><script>document.title="pwned"</script><img src=http://198.51.100.1/x.png onerror=alert(1)>'
LONG = "a_very_long_site_name_without_any_place_to_break_it_" * 4


def hostile(folder: Path) -> Path:
    names = {"kiel": HOSTILE, "linz": LONG, "ulm": "工場-завод"}
    runs.finished(folder)
    lines = (folder / "rounds.jsonl").read_text(encoding="utf-8").splitlines()
    (folder / "rounds.jsonl").unlink()

    def renamed(value: Any) -> Any:
        if isinstance(value, dict):
            return {names.get(key, key): renamed(inner) for key, inner in value.items()}
        return f"{value} {HOSTILE} {LONG}" if isinstance(value, str) and value.startswith("it had not") else value

    result = renamed(json.loads((folder / "result" / "federated.json").read_text(encoding="utf-8")))
    (folder / "result" / "federated.json").unlink()
    (folder / "result").rmdir()
    return runs.write(folder, [renamed(json.loads(line)) for line in lines], {**result, "run": LONG})


def crowd(folder: Path) -> Path:
    """Twenty sites and fifteen rounds, with a matrix of them all."""
    names = [f"plant number {index}" for index in range(20)]
    lines = [
        runs.round_line(
            number,
            {
                name: runs.site_line(
                    ("in", "late", "out", "lost")[(number * 7 + i) % 11 % 4],
                    numbers=runs.numbers(0.4 + 0.03 * number + 0.005 * i),
                )
                for i, name in enumerate(names)
            },
        )
        for number in range(1, 16)
    ]
    end = runs.result({name: (0.8, 0.84, 0.8 + i / 100, 0.9) for i, name in enumerate(names)})
    end["cross_site"] = {a: {b: 0.5 + 0.02 * ((i * j) % 20) for j, b in enumerate(names)} for i, a in enumerate(names)}
    return runs.write(folder, lines, end, runs.RECIPE.replace("rounds = 3", "rounds = 15"))


@pytest.mark.parametrize("make", [runs.finished, runs.going, runs.failed, runs.turbofans, hostile, crowd])
@pytest.mark.parametrize(("width", "dark"), [(1200, False), (400, True), (320, False)])
def test_the_page_stands_alone_and_fits(
    browser: Any,
    write: Callable[[str], Path],
    tmp_path: Path,
    make: Callable[[Path], Path],
    width: int,
    dark: bool,
) -> None:
    page = write(of_run(make(tmp_path / "friday")))
    browser.open(page, width, dark=dark)
    assert browser.requests() == [page.as_uri()]
    assert browser.complaints() == []
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate("document.title") != "pwned"
    assert browser.evaluate("document.querySelectorAll('script, iframe, link, img').length") == 0
    assert browser.evaluate("document.querySelectorAll('section').length") >= 5
    assert browser.evaluate("[...document.querySelectorAll('svg')].every(s => s.getBoundingClientRect().height > 4)")
    inside = browser.evaluate(
        "[...document.querySelectorAll('svg')].every(s => { const box = s.getBoundingClientRect();"
        " return [...s.querySelectorAll('rect, polyline, circle, text')].every(m => {"
        " const b = m.getBoundingClientRect();"
        " return b.left >= box.left - 2 && b.right <= box.right + 2 && b.bottom <= box.bottom + 2 }) })"
    )
    assert inside


def test_the_ticks_do_not_run_into_each_other(browser: Any, write: Callable[[str], Path], tmp_path: Path) -> None:
    browser.open(write(of_run(crowd(tmp_path / "friday"))), 1200)
    apart = browser.evaluate(
        "[...document.querySelectorAll('#curves svg')].every(s => {"
        " const boxes = [...s.querySelectorAll('text:not(.ink)')].map(t => t.getBoundingClientRect());"
        " return boxes.every((a, i) => boxes.slice(i + 1).every(b =>"
        " a.right <= b.left || b.right <= a.left || a.bottom <= b.top + 1 || b.bottom <= a.top + 1)) })"
    )
    assert apart

"""The pages in a real browser: they render, ask nobody for anything, complain about nothing, fit a phone."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_sft.data.dataset import Quarantined
from edge_sft.data.findings import Finding, Findings, Format, LabelCount, Lookalikes, Spread, Suspicion
from edge_sft.data.sensors.findings import ChannelSummary, LabelRows, SensorFindings, SideCount, Sketch
from edge_sft.report import data_page, model_page, sensor_data_page, sensor_model_page

HOSTILE = '"><script>document.title="pwned"</script><img src=http://198.51.100.1/x.png onerror=alert(1)>'
LONG = "a_very_long_file_name_without_any_place_to_break_it_" * 5 + ".png"


def model(made: Any) -> str:
    meta, scores = made.both(prevalence=0.03, max_escape_rate=0.001)
    scores["test"].ids[0:3] = [HOSTILE, LONG, "тест/日本語.png"]
    scores["test"].probabilities[0:3] = [0.01, 0.98, 0.01]  # three surest overkills
    return model_page.render(meta, scores, made.gates(), made.picture)


def many_labels(made: Any) -> str:
    labels = tuple(f"defect kind number {index}" for index in range(14))
    scores = {"val": made.scores((12,) * 14), "test": made.scores((12,) * 14, seed=2)}
    return model_page.render(made.meta(scores, labels, labels[:1]), scores, (), lambda _: None)


def sorting(made: Any) -> str:
    scores = {"val": made.scores((40, 30, 30)), "test": made.scores((40, 30, 30), seed=2)}
    return model_page.render(made.meta(scores, ok=("good", "scratch", "dent")), scores, (), lambda _: None)


def findings(made: Any) -> str:
    return data_page.render(
        Findings(
            name="screws",
            root=Path("/data") / LONG,
            count=300,
            findings=(
                Finding("error", "unreadable", f"{HOSTILE} cannot be read", "Replace it.", (HOSTILE, LONG)),
                Finding("note", "size", "All have one size"),
            ),
            balance=(LabelCount("good", True, {"train": 200}), LabelCount(LONG, False, {"test": 3})),
            formats=(Format(640, 480, 1, 16, 300),),
            spreads=(Spread("brightness", "grey levels", 1, 2, 3, 0, 4, (1, 0, 5), ((LONG, 4.0),)),),
            lookalikes=(Lookalikes(True, (LONG, HOSTILE), ("good", "bad"), ("train", "test")),),
            suspicious=(Suspicion(HOSTILE, "val", "good", LONG, 0.01, 0.98),),
            quarantined=(Quarantined(LONG, "is an empty file"), Quarantined(HOSTILE, "truncated")),
        )
    )


def sensor_findings(sensors: Any) -> str:
    lows = tuple(math.nan if 40 < i < 60 else math.sin(i / 9) for i in range(160))
    sketch = Sketch(LONG, 1.7e9, 1.7e9 + 3600, lows, tuple(low + 0.2 for low in lows))
    channel = ChannelSummary(HOSTILE, "bar", True, 0.9, -1, -1, 0, 1, 1, 2, sketch, ("unit", "stuck"))
    gone = ChannelSummary(LONG, "", False, 0.0, *[math.nan] * 5, 9, None, ("missing-channel",))
    rows = {"train": 10, "val": 20, "test": 30}
    return sensor_data_page.render(
        SensorFindings(
            name="pumps",
            root=Path("/data") / LONG,
            rows=4500,
            runs=15,
            groups=9,
            findings=(
                Finding("error", "unit", f"Channel {HOSTILE} is in another unit", "Mend it.", (HOSTILE, LONG) * 5),
                Finding("warning", "stuck", "A channel stands still"),
            ),
            channels=(channel, gone),
            sides=tuple(SideCount(side, 3, 5, 1500) for side in ("train", "val", "test")),
            labels=(LabelRows("normal", rows, rows), LabelRows(LONG, rows, rows)),
            quarantined=(Quarantined(LONG, "is an empty file"), Quarantined(HOSTILE, "truncated")),
            fingerprint="ab" * 32,
            test_fingerprint="cd" * 32,
        )
    )


def remaining_life(sensors: Any) -> str:
    scores = sensors.lives(9)
    names = {"engine 001": HOSTILE, "engine 002": LONG, "engine 003": "турбина/日本語"}
    scores["test/run"] = np.array([names.get(name, name) for name in scores["test/run"]])
    return sensor_model_page.render(sensors.rul_meta(), scores, sensors.gates())


def cut_lives(sensors: Any) -> str:
    return sensor_model_page.render(sensors.rul_meta(act_below=0.0), sensors.lives(4, failed=False), ())


def anomalies(sensors: Any) -> str:
    meta, scores = sensors.anomaly_meta(), sensors.watched()
    names = {"pump 1": HOSTILE, "pump 2": LONG}
    scores["test/run"] = np.array([names.get(name, name) for name in scores["test/run"]])
    channels = tuple(
        channel.model_copy(update={"name": name})
        for channel, name in zip(meta.windowing.channels, (HOSTILE[:90], LONG[:100], "c", "d", "e"), strict=True)
    )
    meta = meta.model_copy(update={"preprocess": meta.windowing.model_copy(update={"channels": channels})})
    return sensor_model_page.render(meta, scores, sensors.gates())


def fault_votes(sensors: Any) -> str:
    scores = sensors.recordings(8)
    scores["test/run"] = np.where(scores["test/label"] == 1, LONG, scores["test/run"])
    scores["test/group"] = np.where(scores["test/label"] == 2, HOSTILE, scores["test/group"])
    meta = sensors.faults_meta(("healthy",), ("healthy", HOSTILE, LONG, "ball"))
    return sensor_model_page.render(meta, scores, sensors.gates())


@pytest.mark.parametrize("build", [sensor_findings, remaining_life, cut_lives, anomalies, fault_votes])
@pytest.mark.parametrize(("width", "dark"), [(1200, False), (400, True), (320, False)])
def test_a_sensor_page_stands_alone_and_fits(
    browser: Any, sensors: Any, write: Callable[[str], Path], build: Callable[[Any], str], width: int, dark: bool
) -> None:
    _stands_alone(browser, write(build(sensors)), width, dark)


@pytest.mark.parametrize("build", [model, many_labels, sorting, findings])
@pytest.mark.parametrize(("width", "dark"), [(1200, False), (400, True), (320, False)])
def test_the_page_stands_alone_and_fits(
    browser: Any, made: Any, write: Callable[[str], Path], build: Callable[[Any], str], width: int, dark: bool
) -> None:
    _stands_alone(browser, write(build(made)), width, dark)


def _stands_alone(browser: Any, page: Path, width: int, dark: bool) -> None:
    browser.open(page, width, dark=dark)
    assert browser.requests() == [page.as_uri()]
    assert browser.complaints() == []
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate("document.title") != "pwned"
    assert browser.evaluate("document.querySelectorAll('script, iframe, link').length") == 0
    assert browser.evaluate("document.querySelectorAll('section').length") >= 5
    assert browser.evaluate("document.compatMode") == "CSS1Compat"
    # every chart has a size, every picture that is there was decoded
    assert browser.evaluate("[...document.querySelectorAll('svg')].every(s => s.getBoundingClientRect().height > 4)")
    assert browser.evaluate("[...document.images].every(i => i.loading == 'lazy' || i.naturalWidth > 0)")


def test_the_worst_mistakes_are_seen(browser: Any, made: Any, write: Callable[[str], Path]) -> None:
    browser.open(write(model(made)), 1200)
    captions = browser.evaluate("[...document.querySelectorAll('#mistakes figcaption')].map(c => c.innerText)")
    assert any("日本語" in caption for caption in captions)
    assert any(HOSTILE in caption for caption in captions)  # shown as the text that it is
    browser.evaluate("document.querySelectorAll('#mistakes img').forEach(i => i.loading = 'eager')")
    browser.call(
        "Runtime.evaluate", expression="Promise.all([...document.images].map(i => i.decode()))", awaitPromise=True
    )
    widths = browser.evaluate("[...document.images].map(i => [i.naturalWidth, i.naturalHeight])")
    assert widths
    assert all(max(size) == 160 for size in widths)


def test_text_can_be_read_in_light_and_dark(browser: Any, made: Any, write: Callable[[str], Path]) -> None:
    page = write(model(made))
    contrast = """(() => {
      const lum = c => { const [r, g, b] = c.match(/[\\d.]+/g).map(v => { v /= 255;
        return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4 }); return .2126 * r + .7152 * g + .0722 * b };
      const back = lum(getComputedStyle(document.querySelector('section')).backgroundColor);
      return [...document.querySelectorAll('section h2, section p, section td, .figure b, .figure i')].map(e => {
        const l = lum(getComputedStyle(e).color); return (Math.max(l, back) + .05) / (Math.min(l, back) + .05) })
        .reduce((a, b) => Math.min(a, b)) })()"""
    for dark in (False, True):
        browser.open(page, 1200, dark=dark)
        assert browser.evaluate(contrast) >= 3.0  # large figures; running text is far above 4.5


def test_the_timeline_shows_where_a_case_was_open(browser: Any, sensors: Any, write: Callable[[str], Path]) -> None:
    browser.open(write(sensor_model_page.render(sensors.anomaly_meta(), sensors.watched(), ())), 1200)
    drawn = "[...document.querySelectorAll('#timelines svg')].map(s => [...s.querySelectorAll('rect')]"
    colours = browser.evaluate(drawn + ".map(r => r.getAttribute('fill')))")
    assert len(colours) == 6
    assert all("var(--good)" in fills and "var(--overkill)" in fills for fills in colours)
    assert sum("var(--escape)" in fills for fills in colours) == 5  # pump 3's event is missed
    inside = browser.evaluate(
        "[...document.querySelectorAll('#timelines svg')].every(s => { const box = s.getBoundingClientRect();"
        " return [...s.querySelectorAll('rect, polyline, text')].every(m => { const b = m.getBoundingClientRect();"
        " return b.left >= box.left - 2 && b.right <= box.right + 2 && b.bottom <= box.bottom + 2 }) })"
    )
    assert inside


def test_it_prints(browser: Any, made: Any, write: Callable[[str], Path]) -> None:
    browser.open(write(model(made)), 800, dark=True, printed=True)
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert len(browser.call("Page.printToPDF", printBackground=True)["data"]) > 10_000

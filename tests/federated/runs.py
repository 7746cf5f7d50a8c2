"""Made-up run directories, as the coordinator leaves them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge_sft.federated import chain

SITES = ("kiel", "linz", "ulm")
RECIPE = """
name = "screws"
[federated]
rounds = 3
strategy = "fedavg"
share = "no-norm"
compression = "int8"
"""


def site_line(status: str = "in", why: str = "", **more: Any) -> dict[str, Any]:
    line = {
        "status": status, "why": why, "samples": 412, "loss": 0.31, "bytes_up": 1_050_000, "bytes_down": 1_080_000,
        "seconds": 41.5, "fingerprint": "ab" * 32, "norm": 0.8,
    }  # fmt: skip
    return {**line, **more}


def round_line(number: int, sites: dict[str, dict[str, Any]], *, done: bool = True, **more: Any) -> dict[str, Any]:
    line = {
        "round": number, "time": f"2026-11-23T05:{number:02d}:00Z", "app": "cd" * 32, "edge_sft": "0.1.0",
        "sites": sites, "global": f"{number:02d}" * 32 if done else "",
    }  # fmt: skip
    return {**line, **more}


def numbers(level: float, key: str = "balanced_accuracy") -> dict[str, float]:
    return {f"before/val/{key}": level, f"before/test/{key}": level - 0.01, "before/val/samples": 90}


def side(level: float, key: str = "balanced_accuracy") -> dict[str, dict[str, float]]:
    return {split: {key: level - (split == "test") * 0.01, "samples": 240.0} for split in ("val", "test")}


def result(levels: dict[str, Sequence[float]], key: str = "balanced_accuracy", **more: Any) -> dict[str, Any]:
    """Levels of each site: alone, global, personal, central."""
    sites = {
        site: {
            "samples": {"train": 412, "val": 90, "test": 240},
            **{
                name: side(level, key)
                for name, level in zip(("alone", "global", "personal", "central"), four, strict=False)
            },
            "chosen": "personal",
        }
        for site, four in levels.items()
    }
    return {"run": "friday", "status": "finished", "score": key, "parameters": 3_400_000, "sites": sites, **more}


def write(
    directory: Path, lines: Sequence[dict[str, Any]], end: dict[str, Any] | None = None, recipe: str = RECIPE
) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "recipe.toml").write_text(recipe, encoding="utf-8")
    for line in lines:
        chain.append(directory / "rounds.jsonl", line)
    if end is not None:
        (directory / "result").mkdir()
        (directory / "result" / "federated.json").write_text(json.dumps(end), encoding="utf-8")
    return directory


def finished(directory: Path) -> Path:
    """Three plants, three rounds; linz was late once, ulm gains nothing by a paired interval, kiel does."""
    lines = [
        round_line(
            number,
            {
                "kiel": site_line(numbers=numbers(0.5 + 0.12 * number)),
                "linz": site_line(
                    "late" if number == 2 else "in",
                    "it had not answered after 30 min" if number == 2 else "",
                    numbers=numbers(0.45 + 0.1 * number),
                ),
                "ulm": site_line(numbers=numbers(0.55 + 0.11 * number)),
            },
        )
        for number in (1, 2, 3)
    ]
    end = result({"kiel": (0.86, 0.9, 0.93, 0.94), "linz": (0.8, 0.82, 0.83, 0.85), "ulm": (0.93, 0.9, 0.91, 0.93)})
    end["sites"]["kiel"]["paired"] = {"personal-alone": {"difference": 0.07, "low": 0.031, "high": 0.108}}
    end["sites"]["ulm"]["paired"] = {"personal-alone": {"difference": -0.02, "low": -0.035, "high": -0.004}}
    end["cross_site"] = {
        model: {data: 0.7 + 0.2 * (model == data) + 0.01 * i for i, data in enumerate(SITES)} for model in SITES
    }
    return write(directory, lines, end)


def going(directory: Path) -> Path:
    """One round is done, nothing was judged."""
    lines = [{"kind": "started", "run": "friday"}, round_line(1, {site: site_line() for site in SITES})]
    return write(directory, lines)


def failed(directory: Path) -> Path:
    """Ulm never contributed; round 2 missed its quorum three times."""
    sick = {
        "kiel": site_line(),
        "linz": site_line("lost", "nothing was heard of it for 30 min", bytes_up=0, seconds=0, loss=None),
        "ulm": site_line("out", "its update has NaN in head.weight"),
    }
    well = {**sick, "linz": site_line()}
    lines = [round_line(1, well), *(round_line(2, sick, done=False) for _ in range(3))]
    end = {"run": "friday", "status": "stopped", "why": "round 2 had 1 usable update of the 2 it needs, three times"}
    return write(directory, lines, end)


def turbofans(directory: Path) -> Path:
    """Remaining life: less error is better; the flat keys of a site's last message; differential privacy."""
    recipe = RECIPE + '[federated.privacy]\nkind = "dp"\nclip = 1.0\nnoise = 0.5\n'
    names = [f"FD00{i}" for i in range(1, 5)]
    lines = [
        round_line(
            number,
            {
                name: site_line(numbers=numbers(30.0 / number + i, "rmse"), fingerprint=f"{i}" * 64)
                for i, name in enumerate(names)
            },
        )
        for number in (1, 2, 3)
    ]
    sites = {
        name: {
            f"{who}/{split}/{key}": value
            for who, level in (("alone", 15.0 + i), ("global", 18.0 + i), ("personal", 14.0 + i))
            for split in ("val", "test")
            for key, value in (("rmse", level), ("score", -level), ("samples", 100 + 100 * i))
        }
        for i, name in enumerate(names)
    }
    return write(directory, lines, {"run": "night", "sites": sites, "score": "rmse", "parameters": 250_000}, recipe)

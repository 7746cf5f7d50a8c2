"""The page of a sensor check: every name escaped, every channel drawn, nothing loaded from anywhere."""

from __future__ import annotations

import math
from html.parser import HTMLParser
from pathlib import Path

from edge_sft.data.dataset import Quarantined
from edge_sft.data.findings import Finding
from edge_sft.data.sensors.findings import ChannelSummary, LabelRows, SensorFindings, SideCount, Sketch
from edge_sft.report import sensor_data_page

HOSTILE = '"><script>alert(1)</script>'
NAN = math.nan


def channel(name: str, *, present: float = 1.0, words: tuple[str, ...] = ()) -> ChannelSummary:
    lows = tuple(NAN if 40 < i < 60 else math.sin(i / 9) for i in range(160))
    highs = tuple(low + 0.2 for low in lows)
    sketch = Sketch("pump 1.csv", 1.7e9, 1.7e9 + 3600, lows, highs) if present else None
    low, median, high = (-1.0, 0.0, 1.0) if present else (NAN, NAN, NAN)
    return ChannelSummary(name, "bar", name == "rpm", present, low, low, median, high, high, 2, sketch, words)


def findings(*found: Finding, channels: tuple[ChannelSummary, ...] = ()) -> SensorFindings:
    sides = tuple(SideCount(side, 3, 5, 1500) for side in ("train", "val", "test"))
    rows = {"train": 10, "val": 20, "test": 30}
    return SensorFindings(
        name="pumps",
        root=Path("/data") / HOSTILE,
        rows=4500,
        runs=15,
        groups=9,
        findings=found,
        channels=channels or (channel("temp"),),
        sides=sides,
        labels=(LabelRows("normal", rows, rows), LabelRows(HOSTILE, rows, rows)),
        quarantined=(Quarantined(HOSTILE, "is an empty file"),),
        fingerprint="ab" * 32,
        test_fingerprint="cd" * 32,
    )


def test_names_are_text_whatever_they_hold() -> None:
    page = sensor_data_page.render(
        findings(
            Finding("error", "unit", f"Channel '{HOSTILE}' is odd", "Mend it.", (HOSTILE,) * 9),
            channels=(channel(HOSTILE, words=("unit",)), channel("rpm")),
        )
    )
    assert "<script" not in page
    assert "1 thing to mend before training" in page
    assert page.count("&lt;script&gt;") >= 6
    assert "http://" not in page
    HTMLParser().feed(page)


def test_every_channel_has_its_chart_and_a_gap_is_a_gap() -> None:
    page = sensor_data_page.render(findings(channels=(channel("temp"), channel("rpm"), channel("gone", present=0.0))))
    assert page.count("<svg") == 2
    drawn = page.split('<path d="', 1)[1].split('"', 1)[0]
    assert drawn.count("M") == 141
    assert "ready to train" in page
    assert "nan" not in page


def test_an_empty_channel_and_no_findings() -> None:
    page = sensor_data_page.render(findings(channels=(channel("gone", present=0.0),)))
    assert "Nothing to mend" in page
    assert "nothing in 2 runs" in page

from __future__ import annotations

import csv
import io
from collections import Counter
from pathlib import Path

from edge_sft.cli import demo, demo_pictures


def test_other_pictures_get_a_folder_of_their_own(tmp_path: Path) -> None:
    first, second = tmp_path / "a" / "caps", tmp_path / "b" / "caps"
    assert demo._folder_for(first) != demo._folder_for(second)
    assert demo._folder_for(first) == demo._folder_for(first / ".." / "caps")


def test_manifest_leaves_the_unsure_out_and_keeps_classes_in_every_split() -> None:
    lines = [
        f"images/cell{i:04d}.png  {p}  mono"
        for i, p in enumerate([0.0, 1.0, 0.3333333333333333, 0.6666666666666666] * 40)
    ]
    rows = list(csv.DictReader(io.StringIO(demo_pictures.manifest_text("\n".join(lines)))))
    assert Counter(row["label"] for row in rows) == {"ok": 40, "nok": 80}
    assert Counter(row["split"] for row in rows if row["label"] == "ok") == {"train": 28, "val": 6, "test": 6}
    assert demo_pictures.manifest_text("\n".join(reversed(lines))) == demo_pictures.manifest_text("\n".join(lines))

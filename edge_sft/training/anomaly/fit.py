"""From a recipe and pictures of good parts to a checkpoint: features of a frozen backbone, a memory, thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edge_sft import checkpoint as files
from edge_sft import durable
from edge_sft.checkpoint import CheckpointMeta
from edge_sft.data.dataset import Dataset, Item, SplitName
from edge_sft.errors import DataError
from edge_sft.memory_layout import Layout
from edge_sft.metrics.anomaly import cheapest, summary
from edge_sft.models.anomaly import MemoryDetector, build
from edge_sft.models.registry import Provenance
from edge_sft.policy import PictureAnomalyPolicy
from edge_sft.preprocess import Preprocess, decode_for, read_encoded
from edge_sft.preprocess.tiling import cut
from edge_sft.progress import Progress, Silent
from edge_sft.recipe import Recipe
from edge_sft.slots import picture_memory
from edge_sft.slots.picture_memory import Halves, Memory
from edge_sft.task import image_anomaly
from edge_sft.training import machine
from edge_sft.training.fit import deterministic, finished
from edge_sft.training.state import training_key

BANK = "default/bank"  # in the checkpoint's saved arrays
DEFAULT_RATE = 0.01
_BATCH = 16
_SILENT = Silent()
# What a fit may hold: the features of all good pictures or tiles, and a quarter of that again while it reduces them.
_MOST_BYTES = 2 << 30


@dataclass(frozen=True)
class Told:
    """What the detector said of one split: one row a picture.

    Attributes:
        items: The pictures, [P].
        scores: Highest of each picture's tiles, [P].
        peaks: Highest cell of each picture's maps, [P].
        maps: Of the first tile of each picture, float16 [P,h,w].
    """

    items: tuple[Item, ...]
    scores: NDArray[np.float64]
    peaks: NDArray[np.float64]
    maps: Halves


def fit(
    recipe: Recipe, dataset: Dataset, out: Path, *, recipe_text: str, progress: Progress = _SILENT
) -> CheckpointMeta:
    """Remember good pictures as the recipe says and write the checkpoint directory.

    A finished checkpoint of the same recipe and data is returned as it is. Only pictures whose label is in ``task.ok``
    are learnt from; others of the training split serve nothing here, those of validation tell how well it works.

    Args:
        recipe: What to learn.
        dataset: The pictures, with their splits.
        out: The checkpoint directory; made when missing.
        recipe_text: The recipe as the user wrote it, kept beside the weights.
        progress: Told how far it is.

    Raises:
        DataError: Too few good pictures for the false-reject rate, more than fit into memory, or an unreadable one.
        UserError: Weights or a backbone that are not here.
        DeviceError: The disk is full.
    """
    key = training_key(recipe, dataset)
    done = finished(out, key)
    if done is not None:
        return done
    meter = machine.Meter(machine.Usage())
    device = machine.choose_device(recipe.train.device)
    spec = recipe.image.preprocess()
    good = _good(dataset.split("train"), recipe)
    rate = _rate(recipe, len(good), dataset)
    with deterministic(device):
        detector, provenance = build(recipe.model, (spec.height, spec.width), recipe.anomaly.examples)
        detector.to(device)
        features, owner = _features(detector, good, spec, device, progress)
    groups = [item.group or item.id for item in good]
    progress.start("Learning what good looks like", 1)
    memory = picture_memory.fit(
        features,
        [groups[index] for index in owner],
        detector.layout,
        rate=rate,
        clean=recipe.anomaly.clean,
        alike=spec.tiles is not None,
        tell=lambda what: progress.advance(0, note=what),
    )
    progress.advance()
    del features
    said: dict[SplitName, Told] = {
        side: _ask(detector, memory, dataset.split(side), spec, device, progress) for side in ("val", "test")
    }
    policy, notes = _policy(recipe, rate, memory, said["val"])
    facts = {
        **_facts(memory, good, owner, rate, notes),
        "key": key,
        "weights": provenance.origin,
        "weights_sha256": provenance.sha256,
        "wall_s": round(meter.usage().wall_s, 1),
        "cpu_s": round(meter.usage().cpu_s, 1),
        **machine.facts(device),
    }
    return _write(recipe, dataset, out, recipe_text, detector, memory, policy, said, provenance, facts)


def bytes_needed(count: int, layout: Layout) -> int:
    """Return how much memory a fit on so many tiles holds at once, beyond the program itself."""
    features = count * layout.places * layout.features * 2
    reduced = count * layout.places * layout.width * 4
    return features + 2 * reduced


def _good(items: Sequence[Item], recipe: Recipe) -> list[Item]:
    good = [item for item in items if item.label in recipe.task.ok]
    if not good:
        raise DataError(
            "the training split",
            f"has no picture of {', '.join(repr(label) for label in recipe.task.ok)}",
            "Anomaly detection learns from good parts: add pictures of them, or mend task.ok.",
        )
    return good


def _rate(recipe: Recipe, good: int, dataset: Dataset) -> float:
    """Return the rate asked for; where none is, the default, or what so many pictures support."""
    asked = recipe.policy.false_reject_rate
    if asked is not None:
        picture_memory.require_enough(good, asked)
        return asked
    del dataset
    return max(DEFAULT_RATE, 1 / (good + 1) + 1e-12)


@torch.inference_mode()
def _features(
    detector: MemoryDetector, items: Sequence[Item], spec: Preprocess, device: torch.device, progress: Progress
) -> tuple[Halves, list[int]]:
    """Return the features of all tiles float16 [n,P,E], and which picture each is of."""
    layout = detector.layout
    counts = _tiles(items[0], spec)
    needed = bytes_needed(counts * len(items), layout)
    if needed > _MOST_BYTES:
        fact = f"would take {needed / 2**30:.1f} GiB ({len(items)} good pictures of {counts} tiles)"
        limit = f"at most {_MOST_BYTES / 2**30:.0f} GiB are used"
        raise DataError("learning what good looks like", f"{fact}; {limit}", "Give fewer good pictures.")
    progress.start(f"Looking at good pictures ({needed / 2**20:,.0f} MiB)", len(items))
    blocks: list[Halves] = []
    owner: list[int] = []
    waiting: list[NDArray[np.uint8]] = []

    def ask() -> None:
        images = torch.from_numpy(np.concatenate(waiting)).to(device)
        blocks.append(detector.features(images).half().cpu().numpy())
        waiting.clear()

    for index, item in enumerate(items):
        for batch in _cut(item, spec):
            waiting.append(batch)
            owner += [index] * len(batch)
            if sum(map(len, waiting)) >= _BATCH:
                ask()
        progress.advance()
    if waiting:
        ask()
    whole = np.empty((len(owner), layout.places, layout.features), dtype=np.float16)
    start = 0
    blocks.reverse()
    while blocks:  # freed one by one: never all of it twice
        block = blocks.pop()
        whole[start : start + len(block)] = block
        start += len(block)
    return whole, owner


def _tiles(item: Item, spec: Preprocess) -> int:
    return sum(len(batch) for batch in _cut(item, spec)) if spec.tiles is not None else 1


def _cut(item: Item, spec: Preprocess) -> Any:
    frame, size = decode_for(read_encoded(item.path), spec, source=str(item.path))
    return cut(frame, spec, size=size)[1].batches()


@torch.inference_mode()
def _ask(
    detector: MemoryDetector,
    memory: Memory,
    items: Sequence[Item],
    spec: Preprocess,
    device: torch.device,
    progress: Progress,
) -> Told:
    progress.start("Judging pictures", len(items))
    bank = torch.from_numpy(memory.bank).to(device)
    scores, peaks, maps = [], [], []
    for item in items:
        said = [detector(torch.from_numpy(batch).to(device), bank)[:2] for batch in _cut(item, spec)]
        scores.append(max(float(score.max()) for score, _ in said))
        peaks.append(max(float(cells.max()) for _, cells in said))
        maps.append(said[0][1][0].half().cpu().numpy())
        progress.advance()
    shape = (0, *detector.places)
    return Told(
        tuple(items),
        np.array(scores, dtype=np.float64),
        np.array(peaks, dtype=np.float64),
        np.stack(maps) if maps else np.zeros(shape, dtype=np.float16),
    )


def _policy(recipe: Recipe, rate: float, memory: Memory, val: Told) -> tuple[PictureAnomalyPolicy, list[str]]:
    """Return the rule: a threshold of 1 is the conformal one; costs move it where validation shows enough defects."""
    section = recipe.policy
    threshold, notes = 1.0, list(memory.facts)
    if section.false_reject_rate is None:
        defect = np.array([item.label not in recipe.task.ok for item in val.items], dtype=np.bool_)
        chosen = cheapest(val.scores, defect, section.escape_cost, section.overkill_cost, section.prevalence)
        if chosen is not None:
            threshold = chosen
            notes.append(
                f"The threshold is that of least cost on validation, {threshold:.3g} of the good pictures' limit."
            )
        elif rate > DEFAULT_RATE:
            notes.append(f"So few good pictures support a false-reject rate of {100 * rate:.2g} %, not 1 %.")
    return PictureAnomalyPolicy(
        threshold=threshold,
        map_threshold=1.0,
        false_reject_rate=rate,
        clean=recipe.anomaly.clean,
        min_area_mm2=section.min_area_mm2,
        min_length_mm=section.min_length_mm,
        deadline_ms=section.deadline_ms,
    ), notes


def _facts(memory: Memory, good: Sequence[Item], owner: Sequence[int], rate: float, notes: list[str]) -> dict[str, Any]:
    left = sorted({good[owner[int(index)]].id for index in np.flatnonzero(~memory.kept)})
    return {"good_pictures": len(good), "left_out": left, "false_reject_rate": rate, "notes": notes}


def _write(
    recipe: Recipe,
    dataset: Dataset,
    out: Path,
    recipe_text: str,
    detector: MemoryDetector,
    memory: Memory,
    policy: PictureAnomalyPolicy,
    said: dict[SplitName, Told],
    provenance: Provenance,
    facts: dict[str, Any],
) -> CheckpointMeta:
    from safetensors.torch import save

    spec = recipe.image.preprocess()
    layout = detector.layout
    task = image_anomaly(
        spec.height,
        spec.width,
        places=detector.places,
        features=layout.features,
        bank=(layout.rows, layout.width),
    )
    durable.sweep(out)
    tensors = {name: value.detach().cpu().contiguous() for name, value in detector.state_dict().items()}
    durable.write_bytes(out / files.WEIGHTS, save(tensors))
    arrays: dict[str, NDArray[Any]] = {BANK: memory.bank, "train/scores": memory.scores, "train/peaks": memory.peaks}
    metrics = {}
    for side, told in said.items():
        defect = np.array([item.label not in recipe.task.ok for item in told.items], dtype=np.bool_)
        arrays |= {f"{side}/scores": told.scores, f"{side}/peaks": told.peaks, f"{side}/defect": defect}
        arrays |= {f"{side}/maps": told.maps, f"{side}/ids": _text([item.id for item in told.items])}
        metrics[side] = summary(told.scores, defect, policy.threshold)
    files.write_sensor_scores(out, arrays)
    durable.write_text(out / files.RECIPE, recipe_text)
    meta = CheckpointMeta(
        name=recipe.name,
        version=recipe.version,
        task=task,
        preprocess=spec,
        backbone=provenance.backbone,
        backbone_config=provenance.config,
        policy=policy,
        dataset_fingerprint=dataset.fingerprint,
        test_fingerprint=dataset.test_fingerprint,
        weights_sha256=files.sha256_of(out / files.WEIGHTS),
        metrics=dict(metrics),
        training=facts,
    )
    files.write_meta(out, meta)
    return meta


def _text(lines: Sequence[str]) -> NDArray[np.uint8]:
    return np.frombuffer("\n".join(lines).encode(), dtype=np.uint8)

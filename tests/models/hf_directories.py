"""Small directories as Hugging Face's libraries save them: three shapes, random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SHAPES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "vit": ("ViTConfig", "ViTForImageClassification", {"image_size": 32, "patch_size": 8}),
    "dinov2": ("Dinov2Config", "Dinov2Model", {"image_size": 32, "patch_size": 8, "layerscale_value": 1.0}),
    "resnet": (
        "ResNetConfig",
        "ResNetForImageClassification",
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    ),
}
_ENCODER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
PROCESSOR = {
    "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
    "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.25, 0.5],
}  # fmt: skip


def network(family: str) -> Any:
    """Build transformers' own network of that family, random."""
    import torch
    import transformers

    config, model, shape = SHAPES[family]
    extra = {} if family == "resnet" else {**_ENCODER, "intermediate_size": 64, "mlp_ratio": 2}
    torch.manual_seed(0)
    built: Any = getattr(transformers, model)(getattr(transformers, config)(**shape, **extra))
    return built.eval()


def save(family: str, folder: Path) -> Any:
    """Save such a network as its own library does; returns it."""
    built = network(family)
    built.save_pretrained(folder, safe_serialization=True)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return built

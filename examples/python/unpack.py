"""Verify a bundle and lay one variant out for programs in other languages.

    python unpack.py solar-cells-0.1.0.edge default.pub.pem out/ [fp32]

Writes into out/: model.onnx, policy.json, golden.json and one raw .bin file a tensor (little-endian, C order),
so that a program that decodes neither zip nor npz can check that it gets the same numbers.
"""

import io
import json
import sys
from pathlib import Path

import numpy as np

from edge_sft.bundle.keys import load_public
from edge_sft.bundle.reading import open_verified


def unpack(bundle: Path, public_key: Path, out: Path, variant: str = "fp32") -> Path:
    verified = open_verified(bundle, [load_public(public_key)])
    entry = next((item for item in verified.manifest.variants if item.variant == variant), None)
    if entry is None:
        known = ", ".join(item.variant for item in verified.manifest.variants)
        sys.exit(f"{bundle} has no variant '{variant}'; it holds {known}")
    out.mkdir(parents=True, exist_ok=True)
    (out / "model.onnx").write_bytes(verified.read(entry.file))
    (out / "policy.json").write_bytes(verified.read("policy.json"))
    golden = np.load(io.BytesIO(verified.read("golden.npz")), allow_pickle=False)
    described = {
        "tolerance": entry.golden_tolerance,
        "inputs": _tensors(golden, "in/", "in", out),
        "outputs": _tensors(golden, f"out/{variant}/", "out", out),
    }
    (out / "golden.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    return out


def _tensors(golden: "np.lib.npyio.NpzFile", prefix: str, side: str, out: Path) -> dict[str, dict[str, object]]:
    found = {}
    for key in golden.files:
        if key.startswith(prefix):
            array, name = np.ascontiguousarray(golden[key]), key.removeprefix(prefix)
            file = f"{side}-{name}.bin"
            (out / file).write_bytes(array.astype(array.dtype.newbyteorder("<")).tobytes())
            found[name] = {"dtype": str(array.dtype), "shape": list(array.shape), "file": file}
    return found


if __name__ == "__main__":
    bundle, public_key, out, *variant = sys.argv[1:]
    print(unpack(Path(bundle), Path(public_key), Path(out), *variant))

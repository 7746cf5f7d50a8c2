"""NVIDIA's published operator tables: make edge_sft/export/trt_operators.json of them; hold variants against it.

    python benchmarks/operators.py table DIR          # DIR/<release>.md: onnx-tensorrt's docs/operators.md of a release
    python benchmarks/operators.py check FILE... [--results]

A release without a file of its own is covered by the ones around it: tables only grow (`table` refuses them where one
release lists what a later one does not), so what the release before it lists, it lists too. ``check`` takes ONNX files,
bundles (.edge) and folders of them, prints one line a file, and with --results writes benchmarks/results/operators.md.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import zipfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from edge_sft.export import operators

if TYPE_CHECKING:
    import onnx

RESULT = Path(__file__).resolve().parent / "results" / "operators.md"
# The commit that NVIDIA/TensorRT's release tag names as its submodule parsers/onnx.
COMMITS = {
    "10.1": "96e781103cfc4adf4a6bb557e94bac8e693f6f4c",
    "10.14": "c72727708d4ed8a379c04c4ea235c157ce9c3870",
    "11.1": "7c51a63a719180eb5160c874c111746f3fb46a6b",
}
# What lies between two tables that were read, by the releases around it.
BETWEEN = {"10.3": ["10.1", "10.14"], "10.13": ["10.1", "10.14"]}
_MISPRINTS = {"INF64": "INT64"}  # ConstantOfShape, in 10.1 and 10.14


def main() -> None:
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = given.add_subparsers(dest="verb", required=True)
    verbs.add_parser("table").add_argument("docs", type=Path)
    check = verbs.add_parser("check")
    check.add_argument("files", type=Path, nargs="+")
    check.add_argument("--results", action="store_true")
    asked = given.parse_args()
    if asked.verb == "table":
        operators.TABLE.write_text(as_json(generate(asked.docs)), encoding="utf-8")
        print(f"{operators.TABLE}: {len(COMMITS)} releases")
        return
    lines = [as_row(name, model) for path in asked.files for name, model in variants(path)]
    print("\n".join([*heading(), *lines]))
    if asked.results:
        RESULT.write_text(report(lines), encoding="utf-8")
    sys.exit(any("refuses" in line for line in lines))


def generate(docs: Path) -> dict[str, dict[str, str]]:
    """Read the tables: types by operator and release, of what is supported. Raises ValueError where a table shrinks."""
    found: dict[str, dict[str, str]] = {}
    for release in COMMITS:
        for name, types in listed((docs / f"{release}.md").read_text(encoding="utf-8")):
            found.setdefault(name, {})[release] = types
    releases = list(COMMITS)
    for name, by_release in found.items():
        for one, later in pairwise(releases):
            if set(by_release.get(one, "").split()) - set(by_release.get(later, "").split()):
                raise ValueError(f"{name}: {later} lists less than {one}; the releases between them are not known")
    return dict(sorted(found.items()))


def listed(text: str) -> Iterator[tuple[str, str]]:
    """Yield operator and types, separated by blanks, of each row of a table that says Y."""
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("|") and len(cells) > 1 and cells[1].startswith("Y"):
            types = re.findall(r"\w+", cells[2] if len(cells) > 2 else "")
            yield cells[0], " ".join(_MISPRINTS.get(word, word) for word in types)


def as_json(found: dict[str, dict[str, str]]) -> str:
    """Write one line an operator."""
    head = {
        "made by": "benchmarks/operators.py table",
        "source": "which operators and types docs/operators.md of github.com/onnx/onnx-tensorrt lists as supported",
        "licence": "the source is Apache-2.0, copyright NVIDIA Corporation and the onnx-tensorrt authors",
        "releases": COMMITS,
        "between": BETWEEN,
    }
    rows = [f"    {json.dumps(name)}: {json.dumps(types)}" for name, types in found.items()]
    parts = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    return "{\n" + ",\n".join([*parts, '  "operators": {\n' + ",\n".join(rows) + "\n  }"]) + "\n}\n"


def variants(path: Path) -> Iterator[tuple[str, onnx.ModelProto]]:
    """Yield (name, graph) of an ONNX file, of a bundle's variants for NVIDIA, or of all in a folder."""
    import onnx

    if path.is_dir():
        for inner in sorted([*path.rglob("*.edge"), *path.rglob("*.onnx")]):
            yield from variants(inner)
    elif path.suffix == ".edge":
        with zipfile.ZipFile(path) as bundle:
            for variant in operators.FOR_NVIDIA:
                name = next((name for name in bundle.namelist() if name.endswith(f"{variant}.onnx")), None)
                if name:
                    yield f"{path.parent.parent.name} {variant}", onnx.load_from_string(bundle.read(name))
    elif path.stem in operators.FOR_NVIDIA:
        yield f"{path.parent.name} {path.stem}", onnx.load(path)


def heading() -> list[str]:
    return ["| variant | operators | types | largest constant, MB | not listed |", "|---|---|---|---|---|"]


def as_row(name: str, model: onnx.ModelProto) -> str:
    """Hold a graph against the tables."""
    found = operators.used(model)
    kinds = sorted({kind for _, kind in found})
    largest = max(operators.large_constants(model, 0).values(), default=0) / 1e6
    said = "; ".join(str(one) for one in operators.complaints(model))
    mark = " (above 2)" if operators.large_constants(model) else ""
    count = len({operator for operator, _ in found})
    return f"| {name} | {count} | {' '.join(kinds)} | {largest:.2f}{mark} | {f'refuses {said}' if said else '–'} |"


def report(lines: list[str]) -> str:
    commits = ", ".join(f"{release} ({commit[:8]})" for release, commit in COMMITS.items())
    return "\n".join([
        "# Operators against NVIDIA's published tables",
        "",
        "`python benchmarks/operators.py check …`: every operator of every variant, with the type it works on, against",
        f"docs/operators.md of onnx-tensorrt for TensorRT {commits},",
        "the commits that the release tags of NVIDIA/TensorRT name. The tables of 10.3 and 10.13 were not to be had:",
        "they lie between those of 10.1 and 10.14, of which the later lists all that the earlier does. Restrictions",
        "(constant axes, TopK, pooling, zero points, UInt8 into Cast alone) are checked too. A table is a promise on",
        "paper; what NVIDIA's parser and builder really do is in nvidia_builds.md.",
        "",
        *heading(),
        *lines,
        "",
    ])  # fmt: skip


if __name__ == "__main__":
    main()

"""`edge-sft predict`: decide about picture files with a bundle, without deploying it."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from edge_sft.cli.console import errors
from edge_sft.errors import DataError, UserError

if TYPE_CHECKING:
    from edge_sft.prediction import Prediction

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
_COLUMNS = ("name", "verdict", "label", "score", "confidence", "latency_ms", "reason")


def predict(
    bundle: Annotated[Path, typer.Argument(help="The .edge file.")],
    images: Annotated[list[Path], typer.Argument(help="Pictures, or folders of them.")],
    key: Annotated[
        list[Path] | None,
        typer.Option("--key", help="Maker's public key file; repeatable (default: the trusted keys)."),
    ] = None,
    variant: Annotated[str, typer.Option(help="Which of the bundle's variants to run.")] = "fp32",
    policy: Annotated[Path | None, typer.Option(help="Another policy.json than the bundle's own.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="A table with a header.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write there instead of the screen.")] = None,
) -> None:
    """Decide about picture files. A broken picture is reported and the rest goes on."""
    from edge_sft.cli.deploy import keys_or_trusted
    from edge_sft.slots.predictor import Predictor, read_policy

    if as_json and as_csv:
        raise UserError("--json and --csv", "exclude each other", "Give one of them.")
    _require(images)
    form = _json_line if as_json else _csv_line if as_csv else _text_line
    rule = read_policy(policy) if policy else None
    counts: Counter[str] = Counter()
    with (
        Predictor.from_bundle(bundle, keys_or_trusted(key), policy=rule, variant=variant) as predictor,
        _target(out) as target,
    ):
        if as_csv:
            target.write(_csv_row(_COLUMNS))
        for path in _pictures(images):
            prediction = predictor.predict_image(path).model_copy(update={"name": str(path)})
            counts[prediction.verdict] += 1
            if prediction.verdict == "no_decision":
                errors.print(f"no decision: {prediction.reason}", markup=False, soft_wrap=True)
            target.write(form(prediction))
    _close(counts)


def _close(counts: Counter[str]) -> None:
    total = sum(counts.values())
    if total == 0:
        raise UserError("the folders given", "hold no pictures", f"Known kinds: {' '.join(_SUFFIXES)}")
    errors.print(f"{total} pictures: " + ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items())))
    if counts["no_decision"] == total:
        raise DataError("the pictures", "could not be decided, not one of them", "See the reasons above.")


def _require(images: list[Path]) -> None:
    missing = [str(path) for path in images if not path.exists()]
    if missing:
        raise UserError(", ".join(missing), "does not exist", "Check the paths.")


def _pictures(images: list[Path]) -> Iterator[Path]:
    """Yield the files given and, in order of their names, the pictures in the folders given."""
    for path in images:
        if not path.is_dir():
            yield path
            continue
        for folder, inner, files in os.walk(path):
            inner.sort()
            yield from (Path(folder) / name for name in sorted(files) if name.lower().endswith(_SUFFIXES))


@contextlib.contextmanager
def _target(out: Path | None) -> Iterator[BinaryIO]:
    from edge_sft import durable

    if out is not None:
        with durable.replacing(out) as file:
            yield file
        return
    yield sys.stdout.buffer
    sys.stdout.buffer.flush()


def _json_line(prediction: Prediction) -> bytes:
    return prediction.model_dump_json(exclude_none=True).encode() + b"\n"


def _csv_line(prediction: Prediction) -> bytes:
    return _csv_row(tuple(getattr(prediction, column) for column in _COLUMNS))


def _csv_row(values: tuple[object, ...]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerow(values)
    return text.getvalue().encode()


def _text_line(prediction: Prediction) -> bytes:
    if prediction.verdict == "no_decision":
        return f"{'no_decision':<12} {prediction.name}\n".encode()
    share = f"{prediction.confidence:.3f}" if prediction.confidence is not None else ""
    return f"{prediction.verdict:<12} {prediction.name}  {prediction.label} {share}\n".encode()

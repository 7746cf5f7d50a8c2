"""`edge-sft predict`: decide about picture files or recorded sensor rows with a bundle, without deploying it."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import sys
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from edge_sft.cli.console import errors
from edge_sft.errors import DataError, UserError

if TYPE_CHECKING:
    from edge_sft.bundle.keys import PublicKey
    from edge_sft.policy import AnyPolicy
    from edge_sft.prediction import Prediction

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
_COLUMNS = ("name", "verdict", "label", "score", "confidence", "latency_ms", "reason")


def predict(
    bundle: Annotated[Path, typer.Argument(help="The .edge file.")],
    data: Annotated[list[Path], typer.Argument(help="Pictures, or files of sensor rows, or folders of them.")],
    key: Annotated[
        list[Path] | None,
        typer.Option("--key", help="Maker's public key file; repeatable (default: the trusted keys)."),
    ] = None,
    variant: Annotated[str, typer.Option(help="Which of the bundle's variants to run.")] = "fp32",
    policy: Annotated[Path | None, typer.Option(help="Another policy.json than the bundle's own.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="A table with a header.")] = False,
    out: Annotated[
        str | None,
        typer.Option(help="Write there instead of the screen; FOLDER/ also gets a page and each picture drawn over."),
    ] = None,
    last: Annotated[bool, typer.Option("--last", help="Sensors: only the newest window of each recording.")] = False,
    root: Annotated[Path | None, typer.Option(help="Sensors: device folder with the commissionings.")] = None,
    pipeline: Annotated[str, typer.Option(help="Sensors: the pipeline that was commissioned.")] = "main",
) -> None:
    """Decide about picture files or recorded rows. What is broken is reported and the rest goes on."""
    from edge_sft.bundle.reading import open_verified
    from edge_sft.cli import predict_rows
    from edge_sft.cli.deploy import keys_or_trusted
    from edge_sft.cli.paths import device_root
    from edge_sft.slots.opening import read_policy

    drawn = out is not None and (out.endswith(("/", os.sep)) or Path(out).is_dir())
    if as_json and as_csv:
        raise UserError("--json and --csv", "exclude each other", "Give one of them.")
    _require(data)
    keys = keys_or_trusted(key)
    rule = read_policy(policy) if policy else None
    verified = open_verified(bundle, keys)
    windows = verified.manifest.task.modality == "window"
    if drawn and windows:
        raise UserError(f"--out {out}", "is a folder; recorded rows make no pictures", "Give a file's name.")
    columns, unit = predict_rows.COLUMNS if windows else _COLUMNS, verified.manifest.task.unit
    counts: Counter[str]
    if windows:
        made = predict_rows.predictions(
            verified,
            data,
            variant=variant,
            policy=rule,
            root=root or device_root(),
            pipeline=pipeline,
            last=last,
            watched=out is not None,
        )
    elif drawn:
        from edge_sft.cli import predict_folder

        counts = predict_folder.write(Path(out or ""), bundle, keys, _pictures(data), rule, variant)
        _refuse_nothing(counts, windows=False)
        errors.print(f"Page  {Path(out or '') / predict_folder.PAGE}", markup=False, soft_wrap=True)
        _close(counts, "pictures")
        return
    else:
        made = _of_pictures(bundle, keys, data, rule, variant)
    counts = Counter()
    with contextlib.closing(made), _target(None if out is None else Path(out)) as target:
        if as_csv:
            target.write(_csv_row(columns))
        for prediction in made:
            counts[prediction.verdict] += 1
            if as_json:
                target.write(_json_line(prediction))
            elif as_csv:
                target.write(_csv_row(tuple(getattr(prediction, column) for column in columns)))
            else:
                target.write(predict_rows.text_line(prediction, unit) if windows else _text_line(prediction))
        _refuse_nothing(counts, windows=windows)  # before an --out that holds more is replaced
    _close(counts, "windows" if windows else "pictures")


def _of_pictures(
    bundle: Path, keys: list[PublicKey], images: list[Path], rule: AnyPolicy | None, variant: str
) -> Generator[Prediction, None, None]:
    from edge_sft.slots.predictor import Predictor

    with Predictor.from_bundle(bundle, keys, policy=rule, variant=variant) as predictor:
        for path in _pictures(images):
            prediction = predictor.predict_image(path).model_copy(update={"name": str(path)})
            if prediction.verdict == "no_decision":
                errors.print(f"no decision: {prediction.reason}", markup=False, soft_wrap=True)
            yield prediction


def _refuse_nothing(counts: Counter[str], *, windows: bool) -> None:
    if counts:
        return
    if windows:
        raise DataError("the files", "hold no window with enough valid values", "Give longer recordings.")
    raise UserError("the folders given", "hold no pictures", f"Known kinds: {' '.join(_SUFFIXES)}")


def _close(counts: Counter[str], what: str) -> None:
    total = sum(counts.values())
    errors.print(f"{total} {what}: " + ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items())))
    if counts["no_decision"] == total:
        raise DataError(f"the {what}", "could not be decided, not one of them", "See the reasons above.")


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


def _csv_row(values: tuple[object, ...]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerow(values)
    return text.getvalue().encode()


def _text_line(prediction: Prediction) -> bytes:
    if prediction.verdict == "no_decision":
        return f"{'no_decision':<12} {prediction.name}\n".encode()
    if prediction.marks is not None:
        count = prediction.marks_found or len(prediction.marks)
        what = f"{prediction.label}, " if prediction.label else ""
        found = f"{what}{count} {'mark' if count == 1 else 'marks'}"
        return f"{prediction.verdict:<12} {prediction.name}  score {prediction.score:.3f}  {found}\n".encode()
    share = f"{prediction.confidence:.3f}" if prediction.confidence is not None else ""
    return f"{prediction.verdict:<12} {prediction.name}  {prediction.label} {share}\n".encode()

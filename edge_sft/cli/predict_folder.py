"""`edge-sft predict --out FOLDER/`: each picture drawn over, a page to look through them, and all decisions."""

from __future__ import annotations

import contextlib
import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from edge_sft.cli.console import errors
from edge_sft.errors import DataError, EdgeSftError, UserError

if TYPE_CHECKING:
    from edge_sft.bundle.keys import PublicKey
    from edge_sft.policy import AnyPolicy
    from edge_sft.prediction import Prediction
    from edge_sft.report.predictions_page import Row
    from edge_sft.slots.predictor import Predictor

PAGE = "index.html"
TABLE = "predictions.csv"
LINES = "predictions.jsonl"
PICTURES = "pictures"
COLUMNS = (
    "name",
    "verdict",
    "label",
    "score",
    "confidence",
    "marks",
    "longest_mm",
    "latency_ms",
    "reason",
    "picture",
)
_THUMB = 320  # longest side on the page, pixels


def write(
    folder: Path, bundle: Path, keys: list[PublicKey], pictures: Iterable[Path], rule: AnyPolicy | None, variant: str
) -> Counter[str]:
    """Decide about pictures and write all of it into a folder; what is there under these names is replaced.

    Returns:
        How many decisions there were by verdict.

    Raises:
        UserError: The folder cannot be made or written to.
    """
    from edge_sft import durable
    from edge_sft.report import predictions_page
    from edge_sft.slots.predictor import Predictor

    rows: list[Row] = []
    with _writing(folder), Predictor.from_bundle(bundle, keys, policy=rule, variant=variant) as predictor:
        (folder / PICTURES).mkdir(parents=True, exist_ok=True)
        for number, path in enumerate(pictures, 1):
            rows.append(_decide(predictor, path, number, folder))
        ordered = predictions_page.worst_first(rows)
        thumbs = [_thumb(folder, row) for row in ordered[: predictions_page.SHOWN]]
        model = f"{predictor.model.name} {predictor.model.version} ({predictor.model.variant})"
        durable.write_text(folder / PAGE, predictions_page.render(ordered, thumbs, model=model))
        durable.write_text(folder / TABLE, _table(rows))
        durable.write_text(folder / LINES, "".join(_line(row.prediction) for row in rows))
    return Counter(row.prediction.verdict for row in rows)


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        fact = f"cannot be written ({error.strerror or error})"
        raise UserError(str(folder), fact, "Give a folder with room that is yours.") from error


def _decide(predictor: Predictor, path: Path, number: int, folder: Path) -> Row:
    from edge_sft.report.predictions_page import Row
    from edge_sft.slots import overlay

    try:
        explained = predictor.explain(path)
    except DataError:
        told = predictor.predict_image(path).model_copy(update={"name": str(path)})
        _say(told)
        return Row(told, None)
    told = explained.prediction.model_copy(update={"name": str(path)})
    if told.verdict == "no_decision":
        _say(told)
    link = f"{PICTURES}/{number:05d}_{re.sub(r'[^A-Za-z0-9_.-]+', '_', path.stem)[:80]}.jpg"
    picture = overlay.draw(explained, mm_per_pixel=predictor.mm_per_pixel)
    (folder / link).write_bytes(overlay.jpeg(picture))
    return Row(told, link)


def _say(told: Prediction) -> None:
    errors.print(f"no decision: {told.reason}", markup=False, soft_wrap=True)


def _thumb(folder: Path, row: Row) -> str | None:
    from edge_sft.preprocess import read_image
    from edge_sft.report.pictures import data_uri

    if row.link is None:
        return None
    with contextlib.suppress(EdgeSftError):
        return data_uri(read_image(folder / row.link), _THUMB)
    return None


def _table(rows: list[Row]) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for row in rows:
        told = row.prediction
        lengths = [mark.length_mm for mark in told.marks or () if mark.length_mm is not None]
        known = {
            "marks": None if told.marks is None else told.marks_found or len(told.marks),
            "longest_mm": max(lengths, default=None),
            "picture": row.link,
        }
        table.writerow(known[column] if column in known else getattr(told, column) for column in COLUMNS)
    return text.getvalue()


def _line(told: Prediction) -> str:
    return told.model_dump_json(exclude_none=True) + "\n"

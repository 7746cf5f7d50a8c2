"""What of a site's failure leaves the site: fixed words. What an error says in full stays in the site's ``errors.log``.

Errors quote what they are about: paths, column names, labels, values of the site's data. The coordinator is told whose
turn it is to look and a reference to find the full text by. Only what speaks of the coordinator's own words (a run's
name, its recipe, the model's weights) leaves as it is.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from hashlib import sha256
from pathlib import Path
from typing import Final

from edge_sft.errors import BugError, DataError, DeviceError, EdgeSftError, NetworkError, UserError
from edge_sft.federated import chain

ERRORS: Final = "errors.log"
ERRORS_BEFORE: Final = "errors.log.1"
LEDGER: Final = "ledger.jsonl"
_LOG = logging.getLogger("flwr")  # the node's log; Flower sends no site's log to the coordinator
_MOST_BYTES: Final = 1 << 20
_BRIEF: Final = 400  # characters of what a site says of itself that a record takes

# by Flower's numbers (flwr.common.constant.ErrorCode), in place of Flower's words, which quote exceptions and paths
_FLOWERS: Final = {
    1: "the app could not be loaded there",
    2: "the app failed there",
    3: "the message was gone before it was answered",
    4: "its answer was gone before it was fetched",
    5: "its node was not connected",
    6: "the message came at the wrong time",
    7: "the app is not on that site's invite",
    8: "the program that answers died there (out of memory?)",
}


class Sayable(EdgeSftError):
    """A failure whose words hold nothing of the site: it speaks of what the coordinator sent, or of the model."""


@contextmanager
def sayable() -> Iterator[None]:
    """Let what fails within leave in its own words."""
    try:
        yield
    except EdgeSftError as error:
        raise Sayable(error.thing, error.fact, error.remedy) from error


def words(error: BaseException, site: Path | None) -> str:
    """Return what a coordinator is told of a failure; write all of it into the site's own log.

    Args:
        error: What failed.
        site: The site's folder; None where that is what could not be found.
    """
    if isinstance(error, Sayable):
        return str(error)
    full = str(error) if _known(error) else "".join(traceback.format_exception(error))
    now = stamp()
    reference = sha256(f"{now}{full}".encode()).hexdigest()[:8]
    _keep(f"{now} {reference} {full.rstrip()}", site)
    return f"{_whose(error)}; the site's own {ERRORS} says what, under {reference}"


def flowers(code: int) -> str:
    """Return in words of ours what one of Flower's numbers for a failed answer means."""
    return f"{_FLOWERS.get(code, 'it failed')} (Flower's error {code}); the site's own node.log says more"


def brief(text: str) -> str:
    """Return in one line, and not too long a one, what somebody else said."""
    line = " ".join("".join(one if one.isprintable() else " " for one in text).split())
    return line if len(line) <= _BRIEF else line[: _BRIEF - 1] + "…"


def note(site: Path, kind: str, said: str, size: int, *, run: str = "", number: int = 0) -> str:
    """Write into the ledger an answer that is nothing but words, before it leaves; return the ledger's new head.

    Args:
        site: The site's folder.
        kind: The message it answers.
        said: The words.
        size: Bytes of the answer.
        run: The run's name, where it has a good one.
        number: The round; 0 outside of rounds.

    Raises:
        DeviceError: The disk refuses.
    """
    line = {"time": stamp(), "run": run, "round": number, "kind": kind, "tensors": 0, "bytes": size, "sha256": ""}
    return chain.append(site / LEDGER, {**line, "metrics": [], "words": ["why"], "said": said})


def stamp() -> str:
    """Return the time as ledgers have it: UTC, RFC 3339."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _known(error: BaseException) -> bool:
    return isinstance(error, EdgeSftError) and not isinstance(error, BugError)


def _whose(error: BaseException) -> str:
    """Say whose turn it is to look."""
    if isinstance(error, UserError):
        return "the recipe or the site's settings do not fit there"
    if isinstance(error, DataError):
        return "its data, or what it keeps of the run, cannot be used"
    if isinstance(error, DeviceError | OSError | MemoryError):
        return "its machine refuses (disk, memory, or a program that is missing)"
    if isinstance(error, NetworkError):
        return "its network fails"
    return f"its program failed ({type(error).__name__})"


def _keep(line: str, site: Path | None) -> None:
    _LOG.error("%s", line)
    if site is None:
        return
    with suppress(OSError):  # the node's log has it too
        path = site / ERRORS
        if path.exists() and path.stat().st_size > _MOST_BYTES:
            path.replace(site / ERRORS_BEFORE)
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

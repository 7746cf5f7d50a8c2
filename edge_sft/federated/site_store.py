"""What a site keeps of a run on its own disk: the weights it holds, those it does not share, what rounding lost.

Each is stored as of a round, so that a round which is repeated starts from what was before it:

    <site>/runs/<run>/recipe.toml               what the coordinator asked for
                      global-<r>.safetensors    the shared weights that round r began with; 0 = before the first
                      private-<r>.safetensors   the weights that stay, after round r
                      residual-<r>.safetensors  what rounding the update of round r lost
                      record.jsonl              of the coordinator's record: its head, as each question told it
                      checkpoint/               the site's own model, at the end
                      work/                     caches; alone/ and global/: what the own model is compared with
    <site>/ledger.jsonl                         everything that left the site
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Final, Literal

from edge_sft import durable
from edge_sft.errors import UserError
from edge_sft.federated import chain, weights_file
from edge_sft.federated.codec import Encoded, read_layout
from edge_sft.federated.keys import digest
from edge_sft.federated.learner import Arrays
from edge_sft.federated.outward import Sayable, stamp
from edge_sft.federated.settings import recipe_digest

Kind = Literal["global", "private", "residual"]

_KEPT: Final = 2  # rounds; a coordinator that lost its last state repeats one
_RUN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_RECIPE: Final = "recipe.toml"
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
LEDGER: Final = "ledger.jsonl"
RECORD: Final = "record.jsonl"


def check_run_name(run: str) -> str:
    """Return a run's name. Raises UserError when it could be no folder's: it comes from over the network."""
    if not _RUN.fullmatch(run) or ".." in run:
        raise UserError(f"the run {run!r}", "has a name that is no folder's", "Letters, digits, '.', '-' and '_' only.")
    return run


class SiteStore:
    """A site's folder for one run."""

    def __init__(self, site: Path, run: str) -> None:
        self.site = site
        self.run = check_run_name(run)
        self.folder = site / "runs" / run

    def open(self, recipe: str) -> None:
        """Take the run in.

        Raises:
            Sayable: This run is known here with another recipe.
        """
        known = self.recipe()
        if known is not None and known != recipe:
            raise Sayable(
                f"the run {self.run}",
                "was begun here with another recipe",
                f"Give the new run another name, or remove runs/{self.run} in the site's folder.",
            )
        if known is None:
            durable.write_text(self.folder / _RECIPE, recipe)

    def recipe(self) -> str | None:
        """Return the run's recipe; None when the run is not known here."""
        path = self.folder / _RECIPE
        return path.read_text(encoding="utf-8") if path.is_file() else None

    def recipe_digest(self) -> str:
        """Return the recipe's SHA-256 (hex); "" when the run is not known here."""
        text = self.recipe()
        return "" if text is None else recipe_digest(text)

    def save(self, kind: Kind, number: int, arrays: Arrays) -> None:
        """Store weights as of a round, and remove what no round can start from any more. Raises DeviceError."""
        weights_file.write(self._path(kind, number), dict(arrays), {"sha256": digest(arrays)})
        older = [one for one in self._rounds(kind) if one < number]
        for stale in older[:-_KEPT]:
            self._path(kind, stale).unlink(missing_ok=True)

    def before(self, kind: Kind, number: int) -> Arrays:
        """Return the newest weights from before a round; empty when there are none. Raises DataError: damaged."""
        older = [one for one in self._rounds(kind) if one < number]
        return weights_file.read(self._path(kind, older[-1]))[0] if older else {}

    def holding(self, wanted: str) -> Arrays | None:
        """Return the shared weights of a digest, if they are here and whole."""
        for number in reversed(self._rounds("global")):
            arrays, facts = weights_file.read(self._path("global", number))
            if facts.get("sha256") == wanted and digest(arrays) == wanted:
                return arrays
        return None

    def holds(self) -> str:
        """Return the digest of the newest shared weights here; "" when there are none."""
        rounds = self._rounds("global")
        return str(weights_file.read(self._path("global", rounds[-1]))[1].get("sha256", "")) if rounds else ""

    @property
    def checkpoint(self) -> Path:
        """Where the site's own model goes."""
        return self.folder / "checkpoint"

    @property
    def work(self) -> Path:
        """Where learners keep what they need again."""
        return self.folder / "work"

    @property
    def alone(self) -> Path:
        """Where the model goes that the site learns without the others; learners look for it there."""
        return self.work / "alone"

    @property
    def shared(self) -> Path:
        """Where the final shared weights go as a model of this site."""
        return self.work / "global"

    def witness(self, number: int, head: str) -> None:
        """Keep the head of the coordinator's record, so that it cannot be written anew unnoticed; "" = it has none.

        Raises:
            Sayable: It is no SHA-256.
        """
        if not head:
            return
        if not _DIGEST.fullmatch(head):
            raise Sayable("the head of the coordinator's record", "is no SHA-256", "Look at the coordinator.")
        path = self.folder / RECORD
        known = chain.check(path).records
        if not known or known[-1].get("head") != head:
            chain.append(path, {"time": stamp(), "run": self.run, "round": number, "head": head})

    def record(
        self,
        kind: str,
        number: int,
        *,
        size: int,
        words: Iterable[str],
        metrics: Iterable[str],
        encoded: Encoded | None,
        said: str = "",
    ) -> str:
        """Write into the ledger what is about to leave; before it leaves.

        Args:
            kind: The message it answers.
            number: The round; 0 outside of rounds.
            size: Bytes of the whole answer as Flower writes it.
            words: Names of the words in it.
            metrics: Names of the numbers in it.
            encoded: The weights or the update in it.
            said: Why the site refuses, as the coordinator is told.

        Returns:
            The ledger's new head: SHA-256 (hex) of the line.
        """
        line = {
            "time": stamp(),
            "run": self.run,
            "round": number,
            "kind": kind,
            "tensors": 0 if encoded is None else len(read_layout(encoded.layout)),
            "bytes": size,
            "sha256": "" if encoded is None else sha256(encoded.codes.tobytes()).hexdigest(),
            "metrics": sorted(metrics),
            "words": sorted(words),
            **({"said": said} if said else {}),
        }
        return chain.append(self.site / LEDGER, line)

    def _path(self, kind: Kind, number: int) -> Path:
        return self.folder / f"{kind}-{number}.safetensors"

    def _rounds(self, kind: Kind) -> list[int]:
        found = (path.stem.removeprefix(f"{kind}-") for path in self.folder.glob(f"{kind}-*.safetensors"))
        return sorted(int(number) for number in found if number.isdigit())

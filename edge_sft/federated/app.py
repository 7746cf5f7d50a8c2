"""The Flower app: two components that `federation/` names, and the archive whose SHA-256 sites pin."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edge_sft import strict_toml
from edge_sft.errors import BugError, DataError, UserError
from edge_sft.federated import outward, secure_site
from edge_sft.federated.client import MakeLearner, Place, answer, refusal
from edge_sft.federated.learner import Arrays, Learner
from edge_sft.federated.messages import BASE, FINAL, HELLO, ROUND, SECURE, opened, packed
from edge_sft.federated.server import Settings, serve
from edge_sft.profile import data_directory
from edge_sft.progress import Progress

if TYPE_CHECKING:
    from flwr.app import Context, Message, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp

_FILES: Final = ("pyproject.toml", "__init__.py", "client_app.py", "server_app.py")


def make_client_app(make: MakeLearner | None = None) -> ClientApp:
    """Return the site's component.

    Args:
        make: Makes a recipe's learner; None = those of edge-sft.
    """
    from flwr.app import Message
    from flwr.clientapp import ClientApp

    app = ClientApp()
    learners = Remembered(make)

    def handle(message: Message, context: Context) -> Message:
        return Message(_answered(message, context, learners), reply_to=message)

    app.query(HELLO.partition(".")[2])(handle)
    app.query(BASE.partition(".")[2])(handle)
    app.train(ROUND.partition(".")[2])(handle)
    app.train(FINAL.partition(".")[2])(handle)
    app.train()(handle)  # the four steps of a secure round
    return app


def _answered(message: Message, context: Context, learners: Remembered) -> RecordDict:
    """Answer; what goes wrong before there is a site, or with its disk, leaves in fixed words too."""
    kind, place = message.metadata.message_type, None
    try:
        place = place_of(context.node_config, context.run_config)
        try:
            asked = opened(message.content)
        except DataError as error:
            return refusal(kind, outward.words(error, place.directory), place.directory, place.name)
        if kind.partition(".")[0] == SECURE and kind not in {ROUND, FINAL}:
            return secure_site.answer(message, asked, context, place, learners)
        return answer(kind, asked, place, learners)
    except Exception as error:  # noqa: BLE001 - Flower would send its words, which quote the site
        why = outward.words(error, None if place is None else place.directory)
        return packed({"status": "refused", "why": why})


def make_server_app(settings: Settings | None = None) -> ServerApp:
    """Return the coordinator's component."""
    from flwr.serverapp import ServerApp

    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        serve(grid, context.run_config, settings or Settings())

    return app


class Remembered:
    """Learners that were made before, as new: where all sites live in one process, data is read once, not each round.

    Args:
        make: Makes one; None = those of edge-sft.
    """

    def __init__(self, make: MakeLearner | None = None) -> None:
        self._make = make
        self._made: dict[tuple[str, Path, Path], tuple[Learner, Arrays]] = {}

    def __call__(self, recipe: str, data: Path, work: Path, progress: Progress) -> Learner:
        """Return a learner with the weights it starts from."""
        key = (recipe, data, work)
        if key not in self._made:
            learner = self._maker()(recipe, data, work, progress)
            self._made[key] = (learner, learner.weights())
        learner, start = self._made[key]
        learner.load(start)
        return learner

    def _maker(self) -> MakeLearner:
        if self._make is None:
            from edge_sft.federated.learners import make_learner

            self._make = make_learner
        return self._make


def place_of(node_config: Mapping[str, Any], run_config: Mapping[str, Any]) -> Place:
    """Return which site answers: the node's ``site-dir``, or in Flower's simulation the run's n-th.

    Raises:
        UserError: The node says neither, or no site was joined there.
    """
    if "site-dir" in node_config:
        folder = Path(str(node_config["site-dir"]))
    elif "partition-id" in node_config and "run-dir" in run_config:
        sites = Path(str(run_config["run-dir"])) / str(run_config.get("run-name", "")) / "sites"
        folders = sorted(path for path in sites.glob("*") if path.is_dir())
        number = int(node_config["partition-id"])
        if number >= len(folders):
            raise UserError(
                f"the simulated node {number}", f"there are {len(folders)} sites", "Simulate as many nodes."
            )
        folder = folders[number]
    else:
        raise UserError("this node", "does not say where its site is", "Start it with: edge-sft site run")
    try:
        facts = strict_toml.peek(folder / "site.toml")
        return Place(folder, str(facts["site"]), folder / str(facts["data"]))
    except (OSError, ValueError, KeyError) as error:
        raise UserError(str(folder), "is no site: site.toml is missing or damaged", "edge-sft site join") from error


def app_directory() -> Path:
    """Return the app's folder, in the checkout or in the installed wheel."""
    return data_directory("federation")


def build_app() -> bytes:
    """Return the app as Flower packs it (a FAB), the same bytes on every machine. Raises as `packed_app` does."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "federation"  # only what is the app: no caches, whatever .gitignore lies around
        folder.mkdir()
        for name in _FILES:
            (folder / name).write_bytes((app_directory() / name).read_bytes())
        return packed_app(folder)


def packed_app(folder: Path) -> bytes:
    """Pack a folder as `flwr run` does.

    Raises:
        UserError: Flower is not installed.
        BugError: Flower does not take the app.
    """
    try:
        from flwr.cli.build import build_fab_from_disk
    except ImportError as error:
        raise UserError("edge-sft federate", "needs Flower", "pip install 'edge-sft[federated]'") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Flower's own use of pathspec
            return build_fab_from_disk(folder)
    except Exception as error:
        raise BugError("the Flower app", f"cannot be packed ({error})", "Check flwr's version.") from error


def app_sha256() -> str:
    """Return the SHA-256 (hex) of the app as Flower packs it: what a site pins."""
    return sha256(build_app()).hexdigest()

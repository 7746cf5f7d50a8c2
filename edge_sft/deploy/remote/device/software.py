"""edge-sft itself on the device: one folder a version, beside the old one, and a link that says which one counts."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_sft.deploy.remote.device.disk import spoken, sync_folder, write_durably
from edge_sft.deploy.remote.device.incoming import Incoming
from edge_sft.deploy.remote.device.wire import Refusal

_COMPLETE = "complete.json"
_KEPT = ("id", "version", "made_of", "brings")
Run = Callable[[list[str]], "tuple[int, str]"]  # runs a command to its end; its status and what it printed


class Software:
    """`<root>/software`: a folder a version, ``current`` a link to one of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def current(self) -> dict[str, Any] | None:
        """Return what is installed and whole, or None."""
        return _complete(self.folder / "current")

    def python(self) -> Path | None:
        """Return the interpreter of what is installed; the folder itself, since the link may move."""
        place = (self.folder / "current").resolve()
        return place / "bin" / "python" if _complete(place) else None

    def install(self, manifest: dict[str, Any], incoming: Incoming, run: Run, tell: Callable[[str], None]) -> None:
        """Install a wheelhouse whose files have all come in, check that it runs, and switch to it.

        Raises:
            Refusal: Something is missing, or pip refuses; what was installed before goes on as it is.
        """
        place = self.folder / str(manifest["id"])
        if not _complete(place):
            self._make(place, manifest, incoming, run, tell)
        self._switch(place)
        self._sweep(place, tell)

    def _make(
        self, place: Path, manifest: dict[str, Any], incoming: Incoming, run: Run, tell: Callable[[str], None]
    ) -> None:
        wheels = self.folder / f"{place.name}.wheels"
        with spoken(place):
            for stale in (place, wheels):
                shutil.rmtree(stale, ignore_errors=True)
            wheels.mkdir(parents=True)
        for entry in manifest["files"]:
            incoming.named(entry["sha256"], wheels / Path(entry["name"]).name)
        asked = wheels / "requirements.txt"
        with spoken(asked):
            asked.write_text(manifest["requirements"], encoding="utf-8")
        tell("making an environment")
        sees = ["--system-site-packages"] if manifest.get("system_packages") else []
        _expect(run([sys.executable, "-m", "venv", *sees, str(place)]), "python3 -m venv", place)
        python = str(place / "bin" / "python")
        tell(f"installing {len(manifest['files'])} packages")
        pip = [python, "-I", "-m", "pip", "install", "--no-index", "--require-hashes", "--only-binary", ":all:"]
        pip += ["--no-cache-dir", "--disable-pip-version-check", "--no-input", "--find-links", str(wheels)]
        _expect(run([*pip, "-r", str(asked)]), "pip", place)
        tell("looking whether it runs")
        _expect(run([python, "-I", "-m", "edge_sft.cli.main", "--version"]), "the installed edge-sft", place)
        shutil.rmtree(wheels, ignore_errors=True)
        with spoken(place):
            os.sync()
            write_durably(place / _COMPLETE, json.dumps({key: manifest[key] for key in _KEPT}))

    def _switch(self, place: Path) -> None:
        link, beside = self.folder / "current", self.folder / ".current.part"
        with spoken(link):
            if link.is_symlink() and link.readlink() == Path(place.name):
                return
            if _complete(link):
                before = self.folder / ".previous.part"
                before.unlink(missing_ok=True)
                before.symlink_to(link.readlink())
                before.replace(self.folder / "previous")
            beside.unlink(missing_ok=True)
            beside.symlink_to(place.name)
            beside.replace(link)
            sync_folder(self.folder)

    def _sweep(self, place: Path, tell: Callable[[str], None]) -> None:
        """Remove versions that nothing runs, but for this one and the one before."""
        kept = {place.name}
        with contextlib.suppress(OSError):
            kept.add(str((self.folder / "previous").readlink()))
        for old in self.folder.iterdir():
            if old.is_dir() and not old.is_symlink() and old.name not in kept and not _runs(old):
                tell(f"removing {old.name}")
                shutil.rmtree(old, ignore_errors=True)


def _runs(place: Path) -> bool:
    """Tell whether a process was started from there."""
    start = os.fsencode(place) + b"/"
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if any(word.startswith(start) for word in process.read_bytes().split(b"\0")):
                return True
    return False


def _complete(place: Path) -> dict[str, Any] | None:
    try:
        told = json.loads((place / _COMPLETE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return told if isinstance(told, dict) and (place / "bin" / "python").exists() else None


def _expect(outcome: tuple[int, str], who: str, place: Path) -> None:
    status, said = outcome
    if status == 0:
        return
    if "No space left on device" in said:
        raise Refusal("DeviceError", str(place), "the disk is full", "Free some space there and run it again.")
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error")]
    fact = f"{who} failed: {(errors or lines or [f'status {status}'])[-1]}"
    raise Refusal("DeviceError", str(place), fact, "Mend that and run it again; what was there before is untouched.")

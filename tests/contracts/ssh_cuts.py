"""Cutting a deploy over ssh: in a given phase, in a given way, on the devices of ssh_lab."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PHASES = ("contact", "wheelhouse", "install", "bundle", "proof", "switch")
KINDS = ("client", "server", "silence")
_STEP = 3 << 20  # a transfer is cut when so much more has come than at the cut before


@dataclass(frozen=True)
class Cut:
    """What a cut command ended with; ``happened`` is False when it was over before its phase could be cut."""

    phase: str
    kind: str
    happened: bool
    status: int
    said: str


class Watch:
    """Looks at the device's disk to see how far a deploy is.

    Args:
        root: The device's folder, as seen from here.
        sessions: Returns the open connections.
        bundle: SHA-256 of the .edge file.
    """

    def __init__(self, root: Path, sessions: Callable[[], list[int]], bundle: str) -> None:
        self._root, self._sessions = root, sessions
        self._part = root / "incoming" / f"{bundle}.part"
        self._before, self._part_before = self._come(), self._size(self._part)
        self._pointer = self._read("pipelines/main/current.json")
        self._events, self._lock = self._stamp("job.json"), self._stamp("session.lock")

    def reached(self, phase: str, number: int) -> bool:
        """Tell whether a deploy is in a phase; ``number`` spreads the cuts of one phase over it."""
        return bool(getattr(self, f"_in_{phase}")(number))

    def _in_contact(self, number: int) -> bool:
        if number == 2:  # logged in, and the device's program is at work
            return self._stamp("session.lock") != self._lock
        return len(self._sessions()) > number  # the greeting; the login

    def _in_wheelhouse(self, number: int) -> bool:
        return self._come() > self._before + _STEP

    def _in_install(self, number: int) -> bool:
        made = "software/*/lib*/python3*/site-packages/"
        look = ("software/*.wheels", f"{made}pip/__init__.py", f"{made}numpy/__init__.py")[number]
        with contextlib.suppress(OSError):  # what is looked at may be removed meanwhile
            places = [path.relative_to(self._root / "software").parts[0] for path in self._root.glob(look)]
            return any(not (self._root / "software" / place / "complete.json").exists() for place in places)
        return False

    def _in_bundle(self, number: int) -> bool:
        return self._size(self._part) > self._part_before + _STEP

    def _in_proof(self, number: int) -> bool:
        title = ("Verifying", "Installing", "Proving")[number]
        return self._stamp("job.json") != self._events and title in self._read("remote/job.events")

    def _in_switch(self, number: int) -> bool:
        return self._read("pipelines/main/current.json") not in ("", self._pointer)

    def _come(self) -> int:
        with contextlib.suppress(OSError):
            return sum(self._size(path) for path in (self._root / "incoming").iterdir())
        return 0

    def _read(self, name: str) -> str:
        with contextlib.suppress(OSError):
            return (self._root / name).read_text(errors="replace")
        return ""

    def _stamp(self, name: str) -> int:
        with contextlib.suppress(OSError):
            return (self._root / "remote" / name).stat().st_mtime_ns
        return 0

    @staticmethod
    def _size(path: Path) -> int:
        with contextlib.suppress(OSError):
            return path.stat().st_size
        return 0


def run_and_cut(lab: Any, words: list[Any], bundle: str, phase: str, kind: str, number: int) -> Cut:
    """Run a deploy, cut its link in a phase, and return what the command said."""
    watch = Watch(lab.root, lab.sessions, bundle)
    process = lab.start_cli(*words, "--ssh-config", lab.config)
    happened = False
    while process.poll() is None and not happened:
        if watch.reached(phase, number):
            happened = True
            _cut(lab, process, kind)
        else:
            time.sleep(0.001)
    out, err = process.communicate(timeout=240)
    if kind == "silence":
        lab.speak()
    return Cut(phase, kind, happened and process.returncode != 0, process.returncode, (err or out).strip())


def _cut(lab: Any, process: subprocess.Popen[str], kind: str) -> None:
    if kind == "client":
        for pid in lab.ssh_clients(process):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    elif kind == "server":
        lab.cut_at_the_server()
    else:
        lab.silence()


def serving(lab: Any) -> str:
    """Return what the device itself says that it serves, all files verified: ``small 1.0.0``, or nothing."""
    pointer = lab.root / "pipelines" / "main" / "current.json"
    if not pointer.is_file():
        return ""
    python = lab.inside(lab.root) + "/software/current/bin/python"
    said = lab.on_device(f"'{python}' -I -m edge_sft.cli.main slots --root '{lab.inside(lab.root)}'").stdout
    line = next(line for line in said.splitlines() if line.strip().startswith("serves"))
    return " ".join(line.split(": ", 1)[1].split()[:2])


def job_is_over(lab: Any) -> bool:
    """Tell whether no proof is at work on the device."""
    lock = lab.root / "remote" / "job.lock"
    if not lock.exists():
        return True
    return subprocess.run(["flock", "-n", lock, "true"], check=False).returncode == 0


def second_wheelhouse(folder: Path, out: Path) -> Path:
    """Write a wheelhouse that differs in edge-sft's own wheel: the same files, packed otherwise."""
    import hashlib
    import shutil
    import zipfile

    shutil.copytree(folder, out, copy_function=os.link)
    own = next(out.glob("edge_sft-*.whl"))
    content = own.read_bytes()
    own.unlink()
    source = out.parent / "own.zip"
    source.write_bytes(content)
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(own, "w", zipfile.ZIP_STORED) as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info))
    told = json.loads((out / "wheelhouse.json").read_text())
    for entry in told["files"]:
        if entry["name"] == own.name:
            entry["sha256"] = hashlib.sha256(own.read_bytes()).hexdigest()
            entry["size_bytes"] = own.stat().st_size
    (out / "wheelhouse.json").unlink()
    (out / "wheelhouse.json").write_text(json.dumps(told))
    return out

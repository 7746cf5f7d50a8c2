"""The device's side of a deploy over a link: takes files, installs, runs verbs. One request at a time."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any, NoReturn

from edge_sft.deploy.remote.device.disk import refused, spoken
from edge_sft.deploy.remote.device.facts import default_root, look
from edge_sft.deploy.remote.device.hardware import texts
from edge_sft.deploy.remote.device.incoming import Incoming
from edge_sft.deploy.remote.device.jobs import Job
from edge_sft.deploy.remote.device.locks import Session
from edge_sft.deploy.remote.device.software import Software
from edge_sft.deploy.remote.device.wire import Refusal, Wire


class Server:
    """What a device does for whoever logged in.

    Args:
        root: The device's folder of slots.
        silence_s: So long without a byte, and the link counts as cut.
    """

    def __init__(self, root: Path, silence_s: float) -> None:
        self._root, self._silence_s = root, silence_s
        self._remote = root / "remote"
        self._session = Session(self._remote / "session.lock")
        self._incoming = Incoming(root / "incoming")
        self._software = Software(root / "software")
        self._children: list[subprocess.Popen[bytes]] = []
        self._wire = Wire(silence_s, self._session.heard, self._lost)

    def serve(self) -> NoReturn:
        """Say what the device is, then answer requests until the link ends."""
        self._wire.start()
        self._wire.say({"hello": {**look(self._root), "software": self._software.current()}})
        while True:
            request, data = self._wire.next()
            try:
                answer = getattr(self, f"do_{request['op']}")(request, data)
                self._wire.say({"done": answer or {}})
            except Refusal as refusal:
                self._wire.say({"refused": refusal.words})
            except OSError as error:
                self._wire.say({"refused": refused(self._root, error).words})

    def do_hardware(self, request: dict[str, Any], data: bytes) -> dict[str, Any]:
        """Say what the device is made of."""
        return texts()

    def do_lock(self, request: dict[str, Any], data: bytes) -> None:
        """Be the only one who changes this device."""
        with spoken(self._root):
            for folder in (self._root, self._remote, self._incoming.folder):
                folder.mkdir(parents=True, exist_ok=True)
        self._session.take(request["who"], self._silence_s, self._note)

    def do_have(self, request: dict[str, Any], data: bytes) -> dict[str, Any]:
        """Say how much of each file is here, and that there is room for the rest and for installing ``room`` bytes."""
        offsets = [self._incoming.offset(one["sha256"], one["size"]) for one in request["files"]]
        missing = sum(one["size"] - offset for one, offset in zip(request["files"], offsets, strict=True))
        self._incoming.require_room(missing + int(request.get("room", 0)))
        return {"offsets": offsets}

    def do_put(self, request: dict[str, Any], data: bytes) -> dict[str, Any]:
        """Take a piece of a file."""
        return {"at": self._incoming.append(request["sha256"], request["total"], request["offset"], data)}

    def do_place(self, request: dict[str, Any], data: bytes) -> dict[str, Any]:
        """Give a file that has come in a name, for a verb to read."""
        path = self._remote / "inputs" / request["sha256"][:16] / Path(request["name"]).name
        return {"path": str(self._incoming.named(request["sha256"], path))}

    def do_install(self, request: dict[str, Any], data: bytes) -> dict[str, Any]:
        """Install the wheelhouse that has come in."""
        self._software.install(request["manifest"], self._incoming, self._run, self._note)
        self._incoming.keep_only({one["sha256"] for one in request["manifest"]["files"]})
        return {"software": self._software.current()}

    def do_verb(self, request: dict[str, Any], data: bytes) -> dict[str, Any]:
        """Run one of edge-sft's verbs and hand on what it prints."""
        child = subprocess.Popen(
            [*self._edge_sft(), *request["arguments"]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._children.append(child)
        told = threading.Thread(target=self._hand_on, args=(child, "stderr"), daemon=True)
        told.start()
        self._hand_on(child, "stdout")
        told.join()
        return {"status": child.wait()}

    def do_deploy(self, request: dict[str, Any], data: bytes) -> None:
        """Run edge-sft's deploy as work that outlives this link."""
        command = [*self._edge_sft(), "deploy", *request["arguments"], "--to", "local", "--events"]
        Job(self._remote).run({"arguments": request["arguments"]}, command, self._wire.say)

    def do_tidy(self, request: dict[str, Any], data: bytes) -> None:
        """Remove the files that a deploy brought, once it is over."""
        shutil.rmtree(self._remote / "inputs", ignore_errors=True)
        for digest in request["digests"]:
            (self._incoming.folder / Path(digest).name).unlink(missing_ok=True)

    def _edge_sft(self) -> list[str]:
        python = self._software.python()
        if python is None:
            raise Refusal(
                "DeviceError", str(self._root), "holds no edge-sft yet", "Deploy a bundle first: that installs it."
            )
        return [str(python), "-I", "-m", "edge_sft.cli.main"]

    def _run(self, command: list[str]) -> tuple[int, str]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "PYTHON"))}
        scratch = self._remote / "tmp"  # not /tmp, which may be full or small: room was asked for here
        with spoken(scratch):
            scratch.mkdir(parents=True, exist_ok=True)
        environment |= {"PIP_CONFIG_FILE": os.devnull, "LC_ALL": "C.UTF-8", "TMPDIR": str(scratch)}
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        self._children.append(child)
        said, _ = child.communicate()
        return child.returncode, said.decode(errors="replace")

    def _hand_on(self, child: subprocess.Popen[bytes], name: str) -> None:
        stream = getattr(child, name)
        for line in stream:
            self._wire.say({name: line.decode(errors="replace")})

    def _note(self, text: str) -> None:
        self._wire.say({"event": "note", "text": text})

    def _lost(self) -> None:
        """End at once, with what works for this link; a deploy under proof goes on by itself."""
        for child in self._children:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
        os._exit(1)


def main(settings: dict[str, Any]) -> None:
    """Serve with the ``root`` (or none) and ``silence_s`` that came with this program."""
    root = Path(settings["root"]).expanduser() if settings.get("root") else default_root()
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    Server(root.absolute(), float(settings["silence_s"])).serve()

"""One conversation with the device's program over one ssh process; a link that falls silent is cut here too."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any

from edge_sft import errors
from edge_sft.deploy.remote.openssh import OpenSsh
from edge_sft.deploy.remote.program import Program
from edge_sft.errors import BugError, DeviceError, EdgeSftError, NetworkError

_PING_S = 2.0
_CONTACT_S = 60.0  # a slow board starts Python for seconds; a person types a password
_NOISE_MAX = 1 << 20  # what a shell's start-up files may print before the program begins
Event = dict[str, Any]


class Link:
    """An open link to a device.

    Args:
        ssh: How to reach it.
        root: The device's folder; None: its user's own.
        silence_s: So long without a word, and both sides give the link up.
        prefer: Python versions to try first.

    Attributes:
        facts: What the device said of itself.
        doing: What the link is used for now, for the words about a cut.
        fate: What a cut means for the device, for the same words.
    """

    def __init__(
        self, ssh: OpenSsh, root: str | None = None, *, silence_s: float = 20.0, prefer: Sequence[str] = ()
    ) -> None:
        self._ssh, self._silence_s = ssh, silence_s
        self._program = Program(root, silence_s, prefer)
        self._lines: queue.Queue[bytes | None] = queue.Queue()
        self._said: list[str] = []
        self._writing = threading.Lock()
        self._closing = threading.Event()
        self._heard_s = time.monotonic()
        self._met = False
        self.doing = "the first contact"
        self.fate = "what served there goes on serving"
        self.facts: dict[str, Any] = {}

    def open(self) -> None:
        """Open it. Raises UnknownHostKey, NetworkError, DeviceError."""
        self._process = subprocess.Popen(
            self._ssh.command(self._program.command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for work in (self._read_on, self._read_errors):
            threading.Thread(target=work, daemon=True).start()
        threading.Thread(target=self._watch, daemon=True).start()
        try:
            self._contact()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Link:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _contact(self) -> None:
        self._skip_noise()
        self._met = True
        self._write(self._program.content)
        threading.Thread(target=self._ping, daemon=True).start()
        self.facts = self._next()["hello"]

    def _skip_noise(self) -> None:
        noise = 0
        mark = self._program.mark.encode()
        while noise < _NOISE_MAX:
            line = self._lines.get()
            if line is None:
                raise self._broken()
            noise += len(line)
            _, found, rest = line.partition(mark)
            if found and rest.split()[:1] == [b"none"]:
                raise _no_python(str(self._ssh.address), rest.decode(errors="replace").strip().removeprefix("none"))
            if found:
                return
        raise DeviceError(str(self._ssh.address), "its shell prints without end", "Look at its .bashrc.")

    # --- talking ---------------------------------------------------------------------------------------------

    def send(self, op: str, data: bytes = b"", **fields: Any) -> None:
        """Send a request without waiting for its answer."""
        self._write(json.dumps({"op": op, "size": len(data), **fields}).encode() + b"\n" + data)

    def answer(self, tell: Callable[[Event], None] | None = None) -> Event:
        """Wait for the answer to the oldest request; what is told on the way goes to ``tell``.

        Raises:
            EdgeSftError: The device refuses, in its own words, or the link is cut.
        """
        while True:
            line = self._next()
            if "done" in line:
                done: Event = line["done"]
                return done
            if "refused" in line:
                raise spoken(line["refused"], str(self._ssh.address))
            if tell is not None:
                tell(line)

    def call(self, op: str, tell: Callable[[Event], None] | None = None, **fields: Any) -> Event:
        """Send a request and wait for its answer. Raises like `answer`."""
        self.send(op, **fields)
        return self.answer(tell)

    def _write(self, data: bytes) -> None:
        assert self._process.stdin is not None
        try:
            with self._writing:
                self._process.stdin.write(data)
                self._process.stdin.flush()
        except (OSError, ValueError) as error:
            raise self._broken() from error

    def _next(self) -> Event:
        while True:
            line = self._lines.get()
            if line is None:
                raise self._broken()
            with contextlib.suppress(ValueError):
                told = json.loads(line)
                if isinstance(told, dict) and "pong" not in told:
                    return told

    # --- threads ---------------------------------------------------------------------------------------------

    def _read_on(self) -> None:
        for line in self._stream("stdout"):
            self._heard_s = time.monotonic()
            self._lines.put(line)
        self._lines.put(None)

    def _read_errors(self) -> None:
        for line in self._stream("stderr"):
            self._said = [*self._said[-40:], line.decode(errors="replace")]

    def _stream(self, name: str) -> Iterator[bytes]:
        with contextlib.suppress(OSError, ValueError), getattr(self._process, name) as stream:
            yield from stream

    def _ping(self) -> None:
        with contextlib.suppress(EdgeSftError):
            while not self._closing.wait(_PING_S):
                self.send("ping")

    def _watch(self) -> None:
        """Kill an ssh whose other side fell silent; nothing here ever waits for the network."""
        while not self._closing.wait(0.5):
            patience_s = self._silence_s if self._met else _CONTACT_S + 60.0 * self._ssh.ask
            if time.monotonic() - self._heard_s > patience_s:
                self._said.append(f"no word for {patience_s:.0f} s\n")
                self._process.kill()
                return

    def close(self) -> None:
        """End it; the device's program ends by itself."""
        self._closing.set()
        with contextlib.suppress(OSError, ValueError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        self._process.kill()
        self._process.wait()

    def _broken(self) -> EdgeSftError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(2.0)
        time.sleep(0.05)  # its last words are read by another thread
        said = "".join(self._said)
        status = self._process.poll()
        killed = f"ssh was ended by signal {-status}" if status is not None and status < 0 else ""
        if not self._met:
            return self._ssh.failure(said or killed)
        last = (said.strip().splitlines() or [killed or "the other side closed it"])[-1].strip().rstrip(".")
        return NetworkError(
            str(self._ssh.address),
            f"the link was cut during {self.doing} ({last}); {self.fate}",
            "Run the same command again: it goes on where it was.",
        )


def spoken(words: Event, who: str) -> EdgeSftError:
    """Turn an error that a device said into the error it is here."""
    kind = getattr(errors, str(words.get("kind")), DeviceError)
    if not (isinstance(kind, type) and issubclass(kind, EdgeSftError)):
        kind = BugError
    return kind(f"{who}: {words.get('thing', '')}", str(words.get("fact", "")), str(words.get("remedy", "")))


def _no_python(who: str, version: str) -> DeviceError:
    found = version.strip()
    fact = f"has {found}, which does not suit" if found.startswith("Python") else "has no python3"
    return DeviceError(
        who,
        f"{fact}: edge-sft needs Python 3.10, 3.11 or 3.12",
        "On the device: apt install python3 python3-venv (where that is older: python3.10 python3.10-venv).",
    )

"""The program that a bare device is sent: its sources in order, and the line that starts them."""

from __future__ import annotations

import json
import secrets
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

# Each imports only those before it.
_MODULES: Final = ("wire", "disk", "incoming", "facts", "hardware", "locks", "software", "jobs", "serve")
_PACKAGE: Final = "edge_sft.deploy.remote.device"
_PYTHONS: Final = ("python3", "python3.12", "python3.11", "python3.10")
_SUITS: Final = "import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))"
# Standard input is read byte by byte where it must be: what follows belongs to the program.
_LOADER: Final = """
import sys, json, types
print("%s", flush=True)
source = sys.stdin.buffer.raw
left, parts = int(source.readline()), []
while left:
    part = source.read(left)
    if not part: sys.exit(1)
    parts.append(part); left -= len(part)
told = json.loads(b"".join(parts))
for name, text in told["modules"]:
    module = sys.modules[name] = types.ModuleType(name)
    exec(compile(text, name, "exec"), module.__dict__)
module.main(told["settings"])
"""


class Program:
    """What to run over there and what to send it first.

    Args:
        root: The device's folder; None: the user's own.
        silence_s: So long without a byte, and the device gives the link up.
        prefer: Python versions to try first, for example ``3.10``.
    """

    def __init__(self, root: str | None, silence_s: float, prefer: Sequence[str] = ()) -> None:
        self.mark = f"edge-sft-device {secrets.token_hex(8)}"
        self._settings: dict[str, Any] = {"root": root, "silence_s": silence_s}
        self._pythons = [f"python{version}" for version in prefer] + list(_PYTHONS)

    @property
    def command(self) -> str:
        """The command line for the device's shell, whichever that is.

        Prints the mark and goes on in the first suitable Python; ``MARK none VERSION`` where there is none.
        """
        loader = shlex.quote(_LOADER % self.mark)
        tries = " ".join(self._pythons)
        script = (
            f"for p in {tries}; do "
            f"if command -v $p >/dev/null 2>&1 && $p -c {shlex.quote(_SUITS)} >/dev/null 2>&1; "
            f"then exec $p -I -u -c {loader}; fi; done; "
            f"echo {shlex.quote(self.mark)} none $(python3 --version 2>&1 | head -n 1)"
        )
        return f"exec sh -c {shlex.quote(script)}"

    @property
    def content(self) -> bytes:
        """What the loader reads first."""
        folder = Path(__file__).parent / "device"
        modules = [(f"{_PACKAGE}.{name}", (folder / f"{name}.py").read_text(encoding="utf-8")) for name in _MODULES]
        told = json.dumps({"settings": self._settings, "modules": modules}).encode()
        return f"{len(told)}\n".encode() + told

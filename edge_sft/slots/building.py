"""Where a device's engines are built and kept: beside its slots, sealed with its own key."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from edge_sft.bundle.keys import PrivateKey
from edge_sft.bundle.manifest import MANIFEST
from edge_sft.engines import protocol
from edge_sft.engines.plans import PlanCache
from edge_sft.engines.protocol import Engine, Workplace
from edge_sft.profile import DeviceProfile

ENGINES = "engines"
Tell = Callable[[str, "float | None"], None]


@dataclass(frozen=True)
class DeviceSeal:
    """The device's key, made and read when it is first needed."""

    root: Path

    @cached_property
    def _key(self) -> PrivateKey:
        from edge_sft.slots.commissioning_file import device_key

        return device_key(self.root)

    def sign(self, message: bytes) -> bytes:
        """Return this device's signature."""
        return self._key.sign(message)

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Tell whether this device made a signature."""
        return self._key.public.verifies(signature, message)


def workplace(
    slot: Path, profile: DeviceProfile, tell: Tell, check: Callable[[Engine], str] = lambda engine: ""
) -> Workplace:
    """Return where the engines of a slot's model are built and kept, and what asks them before they are used.

    A folder that is no slot of a device (a bundle unpacked to be looked at) has no cache: its engines are built each
    time. Engines that are not built at all need none.
    """
    root = root_of(slot) if protocol.builds(profile) else None
    cache = None if root is None else PlanCache(root / ENGINES, DeviceSeal(root), in_use=lambda: _in_use(root))
    return Workplace(cache, tell, check)


def root_of(slot: Path) -> Path | None:
    """Return the device's folder of a slot or staging folder, `<root>/pipelines/<pipeline>/<slot>`, else None."""
    folder = slot.resolve()
    return folder.parents[2] if len(folder.parents) > 2 and folder.parent.parent.name == "pipelines" else None


def _in_use(root: Path) -> frozenset[str]:
    """Return the SHA-256 of every file of every bundle in a slot or on its way into one."""
    found: set[str] = set()
    for manifest in root.glob(f"pipelines/*/*/{MANIFEST}"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # what cannot be read cannot start either
            found.update(entry["sha256"] for entry in json.loads(manifest.read_bytes())["files"])
    return frozenset(found)

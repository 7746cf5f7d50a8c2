"""Where commissionings live on a device: one signed file a machine and model.

    <root>/device-key/device.pem                                      made on first use, never leaves the device
    <root>/pipelines/<pipeline>/commissioning/<model digest>/<asset>-<digest of it>.commissioning

A file is a line of text, 64 bytes of Ed25519 signature and an .npz of arrays with one array of JSON; the signature is
verified before anything is parsed. A file of another device, another model or another machine is refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import zipfile
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edge_sft import durable
from edge_sft.bundle import keys
from edge_sft.bundle.keys import PrivateKey
from edge_sft.errors import DeviceError, EdgeSftError, UserError
from edge_sft.slots.commissioning import Commissioning
from edge_sft.slots.store import SlotStore

SUFFIX = ".commissioning"
_MAGIC = b"edge-sft commissioning 1\n"
_SIGNATURE_BYTES = 64
_META = "meta"
# A bank of 65,536 examples of 512 channels' statistics is 400 MB; nothing that commissioning writes is larger.
_MAX_BYTES = 512 * 1024 * 1024
_NAME_MAX = 80
_AGAIN = "Run: edge-sft commission"


class _Meta(BaseModel):
    """All of a commissioning but its arrays."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    schema_version: int = Field(default=1, ge=1, le=1)
    model_digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    asset: str
    threshold: float = Field(gt=0, allow_inf_nan=False)
    windows: int
    first: float
    last: float
    created_at: str
    source: str
    facts: tuple[str, ...] = ()


def device_key(root: Path) -> PrivateKey:
    """Return the key with which this device signs what it found out about its machines; made on first use.

    Raises:
        DeviceError: The folder cannot be written.
        UserError: The key file is damaged.
    """
    directory = root / "device-key"
    path = keys.private_path(directory, "device")
    if not path.exists():
        with contextlib.suppress(UserError):  # another process made it this instant
            keys.generate(directory, "device")
    return keys.load_private(path)


def to_bytes(commissioning: Commissioning, key: PrivateKey) -> bytes:
    """Return the content of a commissioning file."""
    meta = _Meta(**{name: getattr(commissioning, name) for name in _Meta.model_fields if name != "schema_version"})
    text = np.frombuffer(meta.model_dump_json().encode(), dtype=np.uint8)
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {_META: text}
    arrays |= {f"in/{name}": array for name, array in commissioning.inputs.items()}
    np.savez(buffer, **arrays)
    payload = buffer.getvalue()
    return _MAGIC + key.sign(_MAGIC + payload) + payload


def from_bytes(content: bytes, key: PrivateKey, *, source: str) -> Commissioning:
    """Read what `to_bytes` wrote.

    Raises:
        DeviceError: No such file, damaged, or signed by another device.
    """
    start = len(_MAGIC) + _SIGNATURE_BYTES
    if not content.startswith(_MAGIC) or len(content) <= start:
        raise DeviceError(source, "is no commissioning that this version reads", _AGAIN)
    signature, payload = content[len(_MAGIC) : start], content[start:]
    if not key.public.verifies(signature, _MAGIC + payload):
        raise DeviceError(source, "is damaged, or was made on another device", _AGAIN)
    try:
        with np.load(io.BytesIO(payload), allow_pickle=False) as archive:
            meta = _Meta.model_validate_json(archive[_META].tobytes())
            names = [name for name in archive.files if name != _META]
            inputs = {name.removeprefix("in/"): archive[name].astype(np.float32) for name in names}
    except (ValidationError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DeviceError(source, "is damaged", _AGAIN) from error
    return Commissioning(inputs=inputs, **meta.model_dump(exclude={"schema_version"}))


class _Known(NamedTuple):
    """What was found when a machine's file was read: time of change and inode, content, or why it must not be used."""

    stamp: tuple[int, int] | None
    found: Commissioning | None
    trouble: str = ""


class CommissioningStore:
    """The commissionings of one pipeline's machines with one model; what a `WindowPredictor` asks."""

    def __init__(self, root: Path, pipeline: str, model_digest: str) -> None:
        self.directory = SlotStore(root, pipeline).directory / "commissioning" / model_digest
        self._digest = model_digest
        self._root = root
        self._key: PrivateKey | None = None
        self._known: dict[str, _Known] = {}

    def of(self, asset: str) -> Commissioning | None:
        """Return a machine's commissioning, the same object until its file changes; None = not commissioned.

        A file that must not be used counts as none here: what the machine does is then not decided. `why_not` says why.
        The disk is asked once an asset until `refresh` is called.
        """
        return self._asked(asset).found

    def why_not(self, asset: str) -> str:
        """Return in words why a machine's file must not be used; empty where it may be, or there is none."""
        return self._asked(asset).trouble

    def _asked(self, asset: str) -> _Known:
        if asset not in self._known:
            stamp = self._stamp(asset)
            try:
                self._known[asset] = _Known(stamp, self.read(asset))
            except EdgeSftError as error:
                self._known[asset] = _Known(stamp, None, str(error))
        return self._known[asset]

    def refresh(self) -> tuple[str, ...]:
        """Forget machines whose file has changed since it was read and return their names; cheap, one stat each."""
        changed = tuple(asset for asset, known in self._known.items() if self._stamp(asset) != known.stamp)
        for asset in changed:
            del self._known[asset]
        return changed

    def read(self, asset: str) -> Commissioning | None:
        """Read a machine's commissioning; None when there is none.

        Raises:
            DeviceError: The file is damaged, of another device, or speaks of another model or machine.
        """
        path = self.path(asset)
        try:
            with path.open("rb") as file:
                content = file.read(_MAX_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DeviceError(str(path), f"cannot be read ({error.strerror or error})", "Check its rights.") from error
        if len(content) > _MAX_BYTES:
            raise DeviceError(str(path), "is larger than any commissioning", _AGAIN)
        found = from_bytes(content, self._device_key(), source=str(path))
        if found.model_digest != self._digest:
            raise DeviceError(str(path), "belongs to another model", _AGAIN)
        if found.asset != asset:
            raise DeviceError(str(path), f"belongs to the machine '{found.asset}'", _AGAIN)
        return found

    def all(self) -> list[Commissioning]:
        """Return every machine's commissioning, in order of names; files that must not be used are left out."""
        found = []
        for path in self.directory.glob(f"*{SUFFIX}"):
            with contextlib.suppress(DeviceError, OSError):
                one = from_bytes(path.read_bytes(), self._device_key(), source=str(path))
                if one.model_digest == self._digest and self.path(one.asset) == path:
                    found.append(one)
        return sorted(found, key=lambda one: one.asset)

    def write(self, commissioning: Commissioning) -> Path:
        """Keep a machine's commissioning; an older one is replaced, wholly or not at all.

        Raises:
            DeviceError: The disk refuses.
            UserError: It belongs to another model.
        """
        if commissioning.model_digest != self._digest:
            raise UserError(commissioning.asset, "was commissioned with another model", _AGAIN)
        path = self.path(commissioning.asset)
        durable.write_bytes(path, to_bytes(commissioning, self._device_key()))
        self._known.pop(commissioning.asset, None)
        return path

    def path(self, asset: str) -> Path:
        """Return a machine's file; the digest keeps apart what a file system does not (Pump and pump, a/b and a-b)."""
        name = quote(asset, safe="")[:_NAME_MAX]
        return self.directory / f"{name}-{hashlib.sha256(asset.encode()).hexdigest()[:12]}{SUFFIX}"

    def _device_key(self) -> PrivateKey:
        if self._key is None:
            self._key = device_key(self._root)
        return self._key

    def _stamp(self, asset: str) -> tuple[int, int] | None:
        try:
            found = self.path(asset).stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino

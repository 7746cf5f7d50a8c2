"""Ed25519 keys: who may sign bundles, and whose bundles a machine runs.

A key folder holds ``<name>.pem`` (private, PKCS8, mode 0600), ``<name>.pub.pem`` and the folder ``trusted``
with one public PEM a key. Whoever can write ``trusted`` decides what the machine runs.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge_sft import durable
from edge_sft.errors import DeviceError, UserError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

TRUSTED = "trusted"
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
_MAX_PEM_BYTES = 64 * 1024


@dataclass(frozen=True)
class PublicKey:
    """A key that may have signed a bundle. ``raw`` is its 32 bytes, ``name`` the file it came from."""

    name: str
    raw: bytes

    @property
    def key_id(self) -> str:
        """First 16 hex digits of the SHA-256 of the raw key: what people compare over the phone."""
        return hashlib.sha256(self.raw).hexdigest()[:16]

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Tell whether this key made a 64-byte signature over exactly these bytes."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except InvalidSignature:
            return False
        return True

    def to_pem(self) -> bytes:
        """Return the key as SubjectPublicKeyInfo PEM, what openssl reads."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        key = Ed25519PublicKey.from_public_bytes(self.raw)
        return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@dataclass(frozen=True)
class PrivateKey:
    """A key that signs. Never printed, never copied into a bundle."""

    name: str
    key: Ed25519PrivateKey

    def __repr__(self) -> str:
        return f"PrivateKey({self.name!r}, id {self.public.key_id})"

    @property
    def public(self) -> PublicKey:
        """The public half."""
        return PublicKey(self.name, self.key.public_key().public_bytes_raw())

    def sign(self, message: bytes) -> bytes:
        """Return the 64 raw bytes of the Ed25519 signature."""
        return self.key.sign(message)


@dataclass(frozen=True)
class KeyPair:
    """Where a new key pair was written."""

    private: Path
    public: Path
    key_id: str


def private_path(directory: Path, name: str = "default") -> Path:
    """Return where a key folder keeps the private key of this name."""
    return directory / f"{name}.pem"


def generate(directory: Path, name: str = "default", *, passphrase: bytes | None = None) -> KeyPair:
    """Make a key pair in a key folder and trust its public half there.

    Raises:
        UserError: The name is no file name, or a key of that name exists (it is never overwritten: bundles
            signed with it would become unrunnable).
        DeviceError: The folder cannot be written.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    if not _NAME.match(name):
        raise UserError(f"key name '{name}'", "is not usable as a file name", "Use letters, digits, '-', '_', '.'.")
    private, public = private_path(directory, name), directory / f"{name}.pub.pem"
    if private.exists() or public.exists():
        raise UserError(str(private), "exists already and is never overwritten", "Use it, or choose another --name.")
    key = PrivateKey(name, Ed25519PrivateKey.generate())
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _write_secret(private, _private_pem(key, passphrase))
    except FileExistsError as error:
        raise UserError(str(private), "exists already and is never overwritten", "Choose another --name.") from error
    except OSError as error:
        raise durable.disk_error(private, error) from error
    durable.write_bytes(public, key.public.to_pem())
    trust(directory, public)
    return KeyPair(private, public, key.public.key_id)


def load_private(path: Path, passphrase: bytes | None = None) -> PrivateKey:
    """Read a private key (PKCS8 PEM). Raises UserError when it is missing, locked or no Ed25519 key."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    content = _read(path, "Make one with: edge-sft keys init")
    try:
        key = load_pem_private_key(content, passphrase)
    except TypeError as error:  # the library's way of saying: passphrase missing, or given for an open key
        fact = "is locked with a passphrase" if passphrase is None else "is not locked, but a passphrase was given"
        raise UserError(str(path), fact, "Give --passphrase-file only where the key has one.") from error
    except ValueError as error:
        raise UserError(str(path), "is no private key, or the passphrase is wrong", "Check both files.") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise UserError(str(path), "is not an Ed25519 key", "Make one with: edge-sft keys init")
    return PrivateKey(path.name.removesuffix(".pem"), key)


def load_public(path: Path) -> PublicKey:
    """Read a public key (SubjectPublicKeyInfo PEM). Raises UserError when it is missing or no Ed25519 key."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    content = _read(path, "Ask the bundle's maker for the .pub.pem file.")
    if b"PRIVATE KEY" in content:
        raise UserError(str(path), "is a private key", "Give the .pub.pem file; the private one stays with its maker.")
    try:
        key = load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UserError(str(path), "is no public key in PEM form", "Ask the maker for the .pub.pem file.") from error
    if not isinstance(key, Ed25519PublicKey):
        raise UserError(str(path), "is not an Ed25519 key", "Bundles are signed with Ed25519 only.")
    return PublicKey(path.name.removesuffix(".pem").removesuffix(".pub"), key.public_bytes_raw())


def trust(directory: Path, public: Path) -> PublicKey:
    """Add a public key to the trusted ones of a key folder, named by its id; trusting twice changes nothing."""
    key = load_public(public)
    if key.raw not in {known.raw for known in trusted(directory)}:
        durable.write_bytes(directory / TRUSTED / f"{key.name}-{key.key_id}.pem", key.to_pem())
    return key


def trusted(directory: Path) -> list[PublicKey]:
    """Return the trusted public keys of a key folder, sorted by file name; empty when there are none.

    Raises:
        UserError: A file in the folder is no Ed25519 public key: trust is never guessed.
    """
    found = [load_public(path) for path in sorted((directory / TRUSTED).glob("*.pem"))]
    return [PublicKey(key.name.removesuffix(f"-{key.key_id}"), key.raw) for key in found]


def _private_pem(key: PrivateKey, passphrase: bytes | None) -> bytes:
    from cryptography.hazmat.primitives import serialization as form

    if passphrase is not None and not passphrase:
        raise UserError("passphrase", "is empty", "Write one into the file, or leave the option out.")
    locked: form.KeySerializationEncryption = (
        form.NoEncryption() if passphrase is None else form.BestAvailableEncryption(passphrase)
    )
    return key.key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, locked)


def _write_secret(path: Path, content: bytes) -> None:
    """Create a file that only its owner reads, whole or not at all; never over an existing one."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")  # mode 0600
    beside = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            path.hardlink_to(beside)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links, as on a memory card
            if path.exists():
                raise FileExistsError(str(path)) from None
            beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    durable.sync_directory(path.parent)


def _read(path: Path, remedy: str) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_PEM_BYTES)
    except FileNotFoundError as error:
        raise UserError(str(path), "does not exist", remedy) from error
    except OSError as error:
        raise DeviceError(str(path), f"cannot be read ({error.strerror or error})", "Check its rights.") from error

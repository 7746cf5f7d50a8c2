"""Differential privacy for a site's update: cut to a length, drowned in noise. Pure but for the secret's file.

    delta, factor = clip(delta, section.clip)                                    # at the site
    delta = noised(delta, site_std(section), secret=…, context=…)                # at = "site": at the site
    mean = noised(mean, coordinator_std(section, sites), secret=…, context=…)    # at = "coordinator": on the average

The coordinator clips what arrives once more: a site is not believed. The noise comes from a secret of whoever adds it,
the run and round, and the very update it hides. So a run that is resumed adds the same noise to the same update, to
the bit; and another update in the same round gets other noise, else their difference would lie open.
"""

from __future__ import annotations

import hmac
import math
import os
import secrets
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_sft.durable import disk_error, sync_directory
from edge_sft.errors import BugError, DataError
from edge_sft.federated.learner import Arrays
from edge_sft.federated_privacy_section import PrivacySection

_SECRET_BYTES = 32
_HAIR = 1e-6  # float32 rounds each weight by up to 6e-8 of itself: cut a hair shorter than allowed


def length(delta: Arrays) -> float:
    """Return the L2 norm of all arrays together, summed in float64."""
    return math.sqrt(math.fsum(float(np.sum(np.square(array, dtype=np.float64))) for array in delta.values()))


def clip(delta: Arrays, norm: float) -> tuple[Arrays, float]:
    """Scale an update down to at most a length.

    Args:
        delta: float32 arrays by name.
        norm: The longest that all of them together may be (L2).

    Returns:
        The update (the same one where it is short enough) and what it was multiplied by, in (0, 1].

    Raises:
        DataError: The update has NaN or infinite numbers.
    """
    long = length(delta)
    if not math.isfinite(long):
        raise DataError("the update", "has numbers that are not finite", "Lower the learning rate.")
    if long <= norm:
        return delta, 1.0
    factor = norm / long * (1 - _HAIR)
    return {name: (array * np.float64(factor)).astype(np.float32) for name, array in delta.items()}, factor


def noised(delta: Arrays, std: float, *, secret: bytes, context: str) -> Arrays:
    """Add Gaussian noise of a standard deviation to each number of an update.

    Args:
        delta: float32 arrays by name.
        std: In the update's own unit.
        secret: 32 bytes that nobody knows whom the noise is to hold off; see `secret_in`.
        context: What the noise is for: run, round, and the weights it began with.

    Returns:
        New arrays; equal arguments give equal bits.

    Raises:
        BugError: The secret is too short to be one.
    """
    if len(secret) < _SECRET_BYTES:
        raise BugError("noise", f"its secret has {len(secret)} bytes instead of {_SECRET_BYTES}", "Please report it.")
    key = hmac.new(secret, f"{context}|{_digest(delta)}".encode(), sha256).digest()
    noise = _normal(key, sum(array.size for array in delta.values()))
    out: Arrays = {}
    start = 0
    for name in sorted(delta):
        array = delta[name]
        part = noise[start : start + array.size].reshape(array.shape)
        out[name] = (array + std * part).astype(np.float32)
        start += array.size
    return {name: out[name] for name in delta}


def site_std(section: PrivacySection) -> float:
    """Return the noise that each site adds to its own update with ``at = "site"``; else 0."""
    return _unit(section) if section.at == "site" else 0.0


def coordinator_std(section: PrivacySection, sites: int) -> float:
    """Return the noise that the coordinator adds to the plain mean of ``sites`` updates; 0 with ``at = "site"``."""
    return _unit(section) / sites if section.at == "coordinator" else 0.0


def secret_in(path: Path) -> bytes:
    """Read the secret that noise is made from; made on first use, readable by its owner only.

    Raises:
        DeviceError: The disk refuses.
        DataError: The file is no secret of ours.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _write_secret(path)
        found = path.read_bytes()
    except OSError as error:
        raise disk_error(path, error) from error
    if len(found) != _SECRET_BYTES:
        raise DataError(str(path), f"has {len(found)} bytes instead of {_SECRET_BYTES}", "Remove it: a new one is made")
    return found


def _write_secret(path: Path) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(secrets.token_bytes(_SECRET_BYTES))
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    sync_directory(path.parent)


def _unit(section: PrivacySection) -> float:
    if section.kind != "dp" or section.clip is None or section.noise is None:
        return 0.0
    return section.clip * section.noise


def _digest(delta: Arrays) -> str:
    total = sha256()
    for name in sorted(delta):
        total.update(f"{name}{delta[name].shape}".encode())
        total.update(np.ascontiguousarray(delta[name], np.float32).tobytes())
    return total.hexdigest()


def _normal(key: bytes, count: int) -> NDArray[np.float64]:
    """Return standard normal numbers [count] from a ChaCha20 stream by Box and Muller.

    A cipher's stream, because a statistical generator's later numbers can be worked out from earlier ones.
    """
    from cryptography.hazmat.primitives.ciphers import Cipher
    from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

    pairs = (count + 1) // 2
    stream = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(16 * pairs))
    whole = np.frombuffer(stream, dtype="<u8").reshape(2, pairs) >> np.uint64(11)
    uniform = (whole + 1.0) * 2.0**-53  # (0, 1]: its logarithm is finite
    radius, angle = np.sqrt(-2 * np.log(uniform[0])), 2 * np.pi * uniform[1]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]

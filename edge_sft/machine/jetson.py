"""Jetson Linux and JetPack: which release holds which CUDA, cuDNN and TensorRT."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class JetPack:
    """A release of JetPack and what it comes with (major.minor; CUDA and TensorRT as a program links them)."""

    version: str
    cuda: str
    cudnn: str
    tensorrt: str
    python: str


# By Jetson Linux ("L4T"), each the beginning of a version; the longest that fits counts.
# 36.x and 38.x: NVIDIA's JetPack downloads pages (developer.nvidia.com/embedded/jetpack/downloads, archive-6.0 to 7.0).
# 38.2: read on an AGX Thor: CUDA 13.0.0, cuDNN 9.12.0, libnvinfer10 10.13.3.9-1+cuda13.0.
# 36.4.7: read on an Orin Nano: CUDA 12.6.11, cuDNN 9.3.0.75, TensorRT 10.3.0, Python 3.10.12.
# 39.2: read on an Orin NX: Ubuntu 24.04, Python 3.12.3, driver 595.78, CUDA 13.2.1, cuDNN 9.20, TensorRT 10.16.2.10;
# from 7.2.2 on TensorRT 11.4.1 may be installed on it (NVIDIA's TensorRT 11.4 release notes).
RELEASES: Final[dict[str, JetPack]] = {
    "35": JetPack("5.1", "11.4", "8.6", "8.5", "3.8"),
    "36.2": JetPack("6.0", "12.2", "8.9", "8.6", "3.10"),
    "36.3": JetPack("6.0", "12.2", "8.9", "8.6", "3.10"),
    "36.4.0": JetPack("6.1", "12.6", "9.3", "10.3", "3.10"),
    "36.4": JetPack("6.1", "12.6", "9.3", "10.3", "3.10"),
    "36.4.3": JetPack("6.2", "12.6", "9.3", "10.3", "3.10"),
    "36.4.4": JetPack("6.2.1", "12.6", "9.3", "10.3", "3.10"),
    "36.4.7": JetPack("6.2.1", "12.6", "9.3", "10.3", "3.10"),
    "36.5": JetPack("6.2.2", "12.6", "9.3", "10.3", "3.10"),
    "38.2": JetPack("7.0", "13.0", "9.12", "10.13", "3.12"),
    "38.4": JetPack("7.1", "13.0", "9.12", "10.13", "3.12"),
    "39.2": JetPack("7.2", "13.2", "9.20", "10.16", "3.12"),
    "39.2.1": JetPack("7.2.1", "13.2", "9.20", "10.16", "3.12"),
}


def jetson_linux(release: str) -> str:
    """Return the version in /etc/nv_tegra_release (``# R36 (release), REVISION: 4.3, …``), or nothing."""
    found = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", release)
    return f"{found[1]}.{found[2].strip('.')}" if found else ""


def jetpack(linux: str) -> JetPack | None:
    """Return the JetPack of a Jetson Linux such as 36.4.3; None for one that is not listed."""
    fitting = [known for known in RELEASES if linux == known or linux.startswith(f"{known}.")]
    return RELEASES[max(fitting, key=len)] if fitting else None


def jetpack_version(linux: str) -> str:
    """Return the JetPack's version; of an unknown Jetson Linux only the first number, which NVIDIA keeps in step."""
    known = jetpack(linux)
    if known is not None:
        return known.version
    return {"35": "5", "36": "6", "38": "7", "39": "7"}.get(linux.partition(".")[0], "")

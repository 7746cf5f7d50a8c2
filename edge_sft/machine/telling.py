"""The facts of another machine, from texts that it sent; and which profile fits once its libraries are there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from edge_sft.machine import facts as parse
from edge_sft.machine.facts import Library, MachineFacts
from edge_sft.machine.jetson import jetpack_version, jetson_linux
from edge_sft.machine.libraries import PROGRAMS
from edge_sft.machine.matching import Match, best
from edge_sft.profile import DeviceProfile, architecture


def facts_of(machine: str, texts: Mapping[str, str]) -> MachineFacts:
    """Return what a machine is.

    Args:
        machine: Its ``platform.machine()``.
        texts: Its files and what nvidia-smi says, by the names of `deploy.remote.device.hardware`.
    """

    def told(name: str) -> str:
        return str(texts.get(name, ""))

    name, flags = parse.cpu(told("cpuinfo"))
    linux = jetson_linux(told("tegra_release"))
    model = parse.device_tree(told("model"))
    return MachineFacts(
        architecture=architecture(machine),
        memory_mb=parse.memory_mb(told("meminfo")),
        cpu=name,
        cpu_flags=flags,
        board=model[0] if model else "",
        compatible=parse.device_tree(told("compatible")),
        jetson_linux=linux,
        jetpack=jetpack_version(linux),
        gpus=parse.gpus(told("nvidia_smi")),
    )


def expected(facts: MachineFacts, profiles: Iterable[DeviceProfile]) -> Match:
    """Return the profile that fits once its wheelhouse is installed.

    One whose library no wheelhouse brings (TensorRT by pip) is passed over, as that must be there by hand first.

    Raises:
        UserError: None fits.
    """
    libraries = {name: Library() for name in PROGRAMS}
    able = [one for one in profiles if one.install.tensorrt != "pip"]
    return best(replace(facts, libraries=libraries), able)

"""Which device profile fits a machine, and why the others do not. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from edge_sft.errors import UserError
from edge_sft.machine.facts import MachineFacts
from edge_sft.machine.libraries import REMEDIES, needed
from edge_sft.profile import DeviceProfile

# A Jetson's kernel and firmware keep some of its memory (7.4 of 8 GB is left), a card's ECC some of a card's.
_SHOWN = 0.85


OLDEST_TENSORRT = (10, 3)  # what JetPack 6 has, and what the engine is held to


@dataclass(frozen=True)
class Condition:
    """One thing that a profile asks for. ``what`` tells what the machine is made of from what is installed on it."""

    fits: bool
    what: Literal["hardware", "software"]
    words: str


@dataclass(frozen=True)
class Match:
    """How a profile stands to a machine."""

    profile: DeviceProfile
    conditions: tuple[Condition, ...]

    @property
    def fits(self) -> bool:
        """Whether nothing speaks against it."""
        return all(condition.fits for condition in self.conditions)

    @property
    def near(self) -> bool:
        """Whether it is made for this hardware, but not for what is installed on it."""
        hardware = [condition.fits for condition in self.conditions if condition.what == "hardware"]
        return not self.fits and len(hardware) > 1 and all(hardware)

    @property
    def reasons_for(self) -> tuple[str, ...]:
        """What speaks for it."""
        return tuple(condition.words for condition in self.conditions if condition.fits)

    @property
    def reasons_against(self) -> tuple[str, ...]:
        """What speaks against it."""
        return tuple(condition.words for condition in self.conditions if not condition.fits)


def match(facts: MachineFacts, profiles: Iterable[DeviceProfile]) -> list[Match]:
    """Rank profiles: those that fit, the most particular first; then near misses; then the rest."""
    found = [Match(profile, tuple(_conditions(profile, facts))) for profile in profiles]
    return sorted(found, key=_rank)


def best(facts: MachineFacts, profiles: Iterable[DeviceProfile]) -> Match:
    """Return the first that fits. Raises UserError when none does."""
    ranked = match(facts, profiles)
    if not ranked or not ranked[0].fits:
        names = ", ".join(item.profile.name for item in ranked)
        raise UserError(
            f"this machine ({facts.title})", "has no profile that fits it", f"Choose one with --profile: {names}."
        )
    return ranked[0]


def passed_over(facts: MachineFacts, profiles: Iterable[DeviceProfile]) -> list[str]:
    """Say why the profile of this machine's accelerator is not taken, where one is here and none of them fits."""
    ranked = match(facts, profiles)
    if any(item.fits and item.profile.accelerator is not None for item in ranked):
        return []
    if facts.gpu_problem:
        return [f"its NVIDIA GPU cannot be used ({facts.gpu_problem}); see edge-sft doctor"]
    near = [item for item in ranked if item.near and item.profile.accelerator is not None]
    return [f"{item.profile.name} would fit, but {'; '.join(item.reasons_against)}" for item in near[:1]]


def _rank(item: Match) -> tuple[object, ...]:
    """Order: an accelerator before the processor, TensorRT before others on the same one, particular before general."""
    return (
        not item.fits,
        not item.near,
        item.profile.accelerator is None,
        -sum(condition.fits for condition in item.conditions),
        len(item.reasons_against),
        item.profile.name,
    )


def _conditions(profile: DeviceProfile, facts: MachineFacts) -> Iterator[Condition]:
    if profile.architecture != "any":
        said = f"is for {profile.architecture}, this is {facts.architecture}"
        same = profile.architecture == facts.architecture
        yield Condition(same, "hardware", f"architecture {facts.architecture}" if same else said)
    yield from _board(profile, facts)
    yield from _flags(profile, facts)
    yield from _accelerator(profile, facts)
    if profile.match.jetpack:
        wanted = " or ".join(profile.match.jetpack)
        fits = any(facts.jetpack == one or facts.jetpack.startswith(f"{one}.") for one in profile.match.jetpack)
        linux = f"Jetson Linux {facts.jetson_linux} is not known" if facts.jetson_linux else "none is here"
        here = f"JetPack {facts.jetpack}" if facts.jetpack else linux
        yield Condition(fits, "software", here if fits else f"is for JetPack {wanted}; {here}")
    name = needed(profile)
    if name and facts.gpus:
        library = facts.libraries.get(name)
        if library is None:
            yield Condition(False, "software", f"{name} was not tried")
        elif library.problem:
            yield Condition(False, "software", f"{name} cannot be used: {library.problem}. {REMEDIES[name]}")
        elif name == "tensorrt" and not _at_least(library.version, OLDEST_TENSORRT):
            yield Condition(False, "software", f"{name} {library.version} is older than 10.3")
        else:
            yield Condition(True, "software", f"{name} {library.version} loads")


def _board(profile: DeviceProfile, facts: MachineFacts) -> Iterator[Condition]:
    if not profile.match.board:
        return
    told = [facts.board, *facts.compatible]
    found = next((one for one in profile.match.board if any(_word(one, text) for text in told)), None)
    if found:
        yield Condition(True, "hardware", f"the board is {facts.board or found}")
    else:
        here = f"this is {facts.board}" if facts.board else "this machine names no board"
        yield Condition(False, "hardware", f"is for {profile.match.board[0]}; {here}")


def _flags(profile: DeviceProfile, facts: MachineFacts) -> Iterator[Condition]:
    for wanted in profile.match.cpu_flags:
        found = [flag for flag in wanted.split("|") if flag in facts.cpu_flags]
        if found:
            yield Condition(True, "hardware", f"the processor has {found[0]}")
        else:
            yield Condition(False, "hardware", f"the processor has no {wanted.replace('|', ' or ')}")


def _accelerator(profile: DeviceProfile, facts: MachineFacts) -> Iterator[Condition]:
    wanted = profile.accelerator
    if wanted is None:
        return
    if not facts.gpus:
        why = facts.gpu_problem or "none is here"
        yield Condition(False, "software" if facts.board else "hardware", f"needs an NVIDIA GPU: {why}")
        return
    gpu = facts.gpus[0]
    fits = gpu.compute_capability in wanted.compute_capabilities
    any_of = " or ".join(wanted.compute_capabilities)
    words = f"{gpu.name}, compute capability {gpu.compute_capability}"
    yield Condition(fits, "hardware", words if fits else f"is for compute capability {any_of}; this is {words}")
    if profile.match.gpu:
        named = any(_word(one, gpu.name) for one in profile.match.gpu)
        said = f"is for {' or '.join(profile.match.gpu)}; this is {gpu.name}"
        yield Condition(named, "hardware", f"its name is {gpu.name}" if named else said)
    has = facts.memory_mb if wanted.shared_memory or gpu.memory_mb is None else gpu.memory_mb
    enough = has >= wanted.memory_mb * _SHOWN
    here = f"{has / 1024:.1f} GB of memory"
    yield Condition(enough, "hardware", here if enough else f"needs {wanted.memory_mb / 1024:.0f} GB; it has {here}")


def _at_least(version: str, wanted: tuple[int, int]) -> bool:
    found = re.match(r"(\d+)\.(\d+)", version)
    return found is None or (int(found[1]), int(found[2])) >= wanted


def _word(word: str, text: str) -> bool:
    """Tell whether a word stands in a text by itself: A2 is not in RTX A2000."""
    return re.search(rf"(?<![A-Za-z0-9]){re.escape(word)}(?![A-Za-z0-9])", text) is not None

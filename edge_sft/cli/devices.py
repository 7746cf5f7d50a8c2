"""`edge-sft devices`: the device profiles, and which of them fits this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from edge_sft.cli.console import console

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edge_sft.machine.facts import MachineFacts
    from edge_sft.machine.matching import Match
    from edge_sft.profile import DeviceProfile

_WIDTH = 80


def list_profiles() -> None:
    """List the device profiles; those that fit this machine are marked, the best with two stars."""
    _, ranked = _ranked()
    marks = {item.profile.name: "*" for item in ranked if item.fits}
    marks |= {item.profile.name: "**" for item in ranked[:1] if item.fits}
    for item in sorted(ranked, key=lambda one: one.profile.name):
        profile = item.profile
        mark = marks.get(profile.name, "")
        console.print(f"{mark:<3}{profile.name:<21} {_engine(profile):<17} {', '.join(profile.variants)}")
    console.print("\n** what `--profile auto` takes here, * fits too; why and why not: edge-sft devices match")


def match(
    everything: Annotated[bool, typer.Option("--all", help="Those for other hardware too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Rank the profiles for this machine; says what speaks for each, and against each near miss."""
    facts, ranked = _ranked()
    if as_json:
        _print_json(facts, ranked)
        return
    console.print(facts.title, markup=False)
    if facts.gpu_problem:
        console.print(f"[yellow]its NVIDIA GPU cannot be used[/]: {facts.gpu_problem} (see edge-sft doctor)")
    shown = [item for item in ranked if everything or item.fits or item.near]
    for item in shown:
        word = "[green]fits[/]" if item.fits else "[yellow]nearly[/]" if item.near else "no"
        console.print(f"\n{item.profile.name}  {word}  {item.profile.title}", soft_wrap=True)
        for sign, reasons in (("+", item.reasons_for), ("-", item.reasons_against)):
            for reason in reasons:
                _print_wrapped(f"  {sign} ", reason)
    if len(shown) < len(ranked):
        console.print(f"\n{len(ranked) - len(shown)} more are for other hardware: edge-sft devices match --all")


def show(name: Annotated[str, typer.Argument(help="Name of a profile, or a .toml file.")]) -> None:
    """Show all of one device profile."""
    from edge_sft import profile as profiles

    for key, value in _rows(profiles.load(name)):
        _print_wrapped(f"{key:<14} ", value)


def _ranked() -> tuple[MachineFacts, list[Match]]:
    from edge_sft import profile as profiles
    from edge_sft.machine.matching import match as rank
    from edge_sft.machine.reading import look

    facts = look()
    return facts, rank(facts, [profiles.load(name) for name in profiles.shipped()])


def _print_json(facts: MachineFacts, ranked: list[Match]) -> None:
    import json
    from dataclasses import asdict

    machine = {**asdict(facts), "cpu_flags": sorted(facts.cpu_flags)}
    told = [
        {
            "name": item.profile.name,
            "fits": item.fits,
            "near": item.near,
            "for": item.reasons_for,
            "against": item.reasons_against,
        }
        for item in ranked
    ]
    print(json.dumps({"machine": machine, "profiles": told}, indent=2, ensure_ascii=False))


def _engine(profile: DeviceProfile) -> str:
    return f"{profile.engine} {profile.provider}" if profile.engine == "onnxruntime" else profile.engine


def _rows(profile: DeviceProfile) -> Iterator[tuple[str, str]]:
    from edge_sft.profile import usable_threads

    here = f"all cores but one (here {usable_threads(profile)})"
    yield "name", profile.name
    yield "title", profile.title
    yield "architecture", profile.architecture
    yield "engine", f"{profile.engine} on {profile.provider}"
    yield "variants", ", ".join(profile.variants)
    if profile.fall_back:
        yield "", "one whose engine cannot be built is passed over"
    yield "threads", f"{profile.threads}" if profile.threads else here
    yield "budget p95", f"{profile.budgets.latency_p95_ms:g} ms a picture (preprocess, inference, decision)"
    yield "budget memory", f"{profile.budgets.memory_mb:g} MB a model"
    if profile.accelerator is not None:
        gpu = profile.accelerator
        capabilities = ", ".join(gpu.compute_capabilities)
        memory = f"{gpu.memory_mb / 1024:g} GB{', shared with the processor' if gpu.shared_memory else ''}"
        yield "accelerator", f"NVIDIA, compute capability {capabilities}; at least {memory}"
        limit = f"{profile.building.workspace_mb} MB" if profile.building.workspace_mb else "as much memory as it takes"
        most = profile.building.batch_max
        batches = f"batches up to {most}" if most else "one picture, 8 tiles of one, or 64 windows, at a time"
        yield (
            "building",
            f"{batches}, {limit}, given up after {profile.building.timeout_s:g} s",
        )
    for words in _known_by(profile):
        yield "known by", words
    for mode in profile.power_modes:
        watts = f"{mode.watts:g} W" if mode.watts else "no limit of its own"
        yield "power mode", f"{mode.name}: {watts}{f'; {mode.command}' if mode.command else ''}"
    yield from _rows_of_cameras(profile)
    yield from _rows_of_install(profile)


def _known_by(profile: DeviceProfile) -> Iterator[str]:
    hardware = profile.match
    for words, values in (("board", hardware.board), ("GPU", hardware.gpu), ("JetPack", hardware.jetpack)):
        if values:
            yield f"{words}: {' or '.join(values)}"
    if hardware.cpu_flags:
        yield f"processor: {' and '.join(flag.replace('|', ' or ') for flag in hardware.cpu_flags)}"


def _rows_of_cameras(profile: DeviceProfile) -> Iterator[tuple[str, str]]:
    for camera in profile.cameras:
        yield f"camera {camera.kind}", camera.note
        if camera.device is not None:
            yield "", f"agent.toml: device = {camera.device if isinstance(camera.device, int) else repr(camera.device)}"
        if camera.pipeline:
            yield "", f"GStreamer: {camera.pipeline}"


def _rows_of_install(profile: DeviceProfile) -> Iterator[tuple[str, str]]:
    install = profile.install
    if install.system_packages:
        yield "install", f"apt install {' '.join(install.system_packages)}"
    python = f"Python {install.python}" if install.python else "Python 3.10 to 3.12"
    extras = f"edge-sft[{','.join(install.extras)}]" if install.extras else "edge-sft"
    yield "", f"{python}, {extras}, wheels for {install.wheels or 'its platform'}"
    yield "", f"edge-sft wheelhouse --profile {profile.name}"
    if install.tensorrt != "none":
        whose = "the system's, never pip's" if install.tensorrt == "system" else "by pip"
        yield "", f"TensorRT: {whose}"
    for note in install.notes:
        yield "", note


def _print_wrapped(start: str, text: str) -> None:
    """Print a text in lines of at most 80 columns, further ones below the first."""
    import textwrap

    lines = textwrap.wrap(text, _WIDTH - len(start), break_long_words=False, break_on_hyphens=False) or [""]
    console.print(start + lines[0], markup=False)
    for line in lines[1:]:
        console.print(" " * len(start) + line, markup=False)

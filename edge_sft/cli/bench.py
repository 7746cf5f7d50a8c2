"""`edge-sft bench`: how fast a model is on this machine, every variant beside the bare library."""

from __future__ import annotations

import contextlib
import platform
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_sft.cli.console import console, errors, progress
from edge_sft.cli.deploy import Keys, Pipeline, Root, keys_or_trusted, profile_named
from edge_sft.cli.paths import device_root
from edge_sft.errors import UserError

if TYPE_CHECKING:
    from edge_sft.bundle.manifest import Manifest
    from edge_sft.deploy.bench_result import BenchReport
    from edge_sft.policy import AnyPolicy
    from edge_sft.profile import DeviceProfile

_MEANING = {
    "jpeg": "from a JPEG file's bytes to the decision",
    "frame": "from a camera's frame to the decision",
    "rows": "from the rows that complete a window to the decision",
    "engine": "the engine on inputs that lie ready",
    "bare": "the library's own loop on the same inputs, without edge-sft",
}
_BATCH_MAX = 256


def bench(
    bundle: Annotated[Path | None, typer.Argument(help="A .edge file; default what is deployed here.")] = None,
    pipeline: Pipeline = "main",
    root: Root = None,
    profile: Annotated[
        str | None, typer.Option(help="Device profile: auto, a name, or a .toml file; default the deployed one's.")
    ] = None,
    variant: Annotated[
        list[str] | None, typer.Option("--variant", help="Only this; repeatable (default: all the profile permits).")
    ] = None,
    batch: Annotated[str, typer.Option(help="Batch sizes, with commas.")] = "1",
    seconds: Annotated[float, typer.Option(min=0.05, help="For each variant, batch and way through.")] = 2.0,
    energy_seconds: Annotated[float, typer.Option(min=0.2, help="For each of them, where energy can be read.")] = 2.0,
    picture: Annotated[Path | None, typer.Option(help="A picture as the line's; default a golden one.")] = None,
    key: Keys = None,
    as_json: Annotated[Path | None, typer.Option("--json", help="Write everything there, too.")] = None,
) -> None:
    """Time a model on this machine: end to end, engine only, beside the bare library, in turn in a fresh process."""
    from edge_sft import durable
    from edge_sft.deploy.bench import bench as measure
    from edge_sft.deploy.bench import chosen_variants
    from edge_sft.deploy.bench_run import BenchRequest

    batches = _batches(batch)
    with _model(bundle, pipeline, root or device_root(), profile, key) as model, progress() as bar:
        request = BenchRequest(
            slot=model.folder,
            profile=model.profile,
            policy=model.policy,
            variants=chosen_variants(model.manifest, model.profile, variant or []),
            batches=batches,
            seconds=seconds,
            energy_s=energy_seconds,
            picture=None if picture is None else picture.resolve(),
        )
        report = measure(request, model.manifest, model.digest, bar)
    if as_json is not None:
        durable.write_text(as_json, report.model_dump_json(indent=2) + "\n")
    _show(report)


@dataclass(frozen=True)
class _Model:
    """What is measured: a bundle's files, verified, and what it runs with."""

    folder: Path
    digest: str
    manifest: Manifest
    policy: AnyPolicy
    profile: DeviceProfile


@contextlib.contextmanager
def _model(
    bundle: Path | None, pipeline: str, root: Path, profile: str | None, key: list[Path] | None
) -> Iterator[_Model]:
    """Yield a bundle, extracted for as long, or what serves on a pipeline here."""
    from edge_sft import profile as profiles

    if bundle is None:
        yield _deployed(pipeline, root, profile)
        return
    from edge_sft.bundle.manifest import POLICY
    from edge_sft.bundle.reading import open_verified
    from edge_sft.slots.opening import read_policy

    chosen = profile_named(profile or "auto")
    profiles.check_runs_on(chosen, platform.machine())
    verified = open_verified(bundle, keys_or_trusted(key))
    with tempfile.TemporaryDirectory(prefix="edge-sft-") as name:
        verified.extract_to(Path(name))
        policy = read_policy(Path(name) / POLICY)
        yield _Model(Path(name), verified.digest, verified.manifest, policy, chosen)


def _deployed(pipeline: str, root: Path, profile: str | None) -> _Model:
    from edge_sft.slots import proof as proofs
    from edge_sft.slots.opening import read_policy
    from edge_sft.slots.store import SlotStore, read_manifest

    slot = SlotStore(root, pipeline).verified()
    if slot.note:
        errors.print(slot.note, markup=False, soft_wrap=True)
    chosen = profile_named(profile) if profile else proofs.load(slot.path).profile
    return _Model(slot.path, slot.digest, read_manifest(slot.path), read_policy(slot.policy_path), chosen)


def _batches(text: str) -> tuple[int, ...]:
    try:
        found = tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        found = (0,)
    if not all(1 <= size <= _BATCH_MAX for size in found):
        raise UserError(
            f"--batch {text}", f"is no list of sizes from 1 to {_BATCH_MAX}", "For example: --batch 1,2,4,8"
        )
    return found


def _show(report: BenchReport) -> None:
    from rich import box
    from rich.table import Table

    title = f"{report.name} {report.version} ({report.input}), profile {report.profile.name}, milliseconds"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name in ("variant", "from"):
        table.add_column(name, no_wrap=True)
    for name in ("batch", "p50", "p95", "p99", "max", "per s", "of bare", *_joules(report)):
        table.add_column(name, justify="right", no_wrap=True)
    for row in report.timings:
        numbers = (row.p50_ms, row.p95_ms, row.p99_ms, row.max_ms, row.per_second, row.of_bare)
        spent = (row.joules.get(meter) for meter in report.energy.meters)
        table.add_row(row.variant, row.path, str(row.batch), *(_cell(value) for value in (*numbers, *spent)))
    console.print(table)
    for line in _lines(report):
        console.print(line, markup=False)


def _cell(value: float | None) -> str:
    """Write three digits, and large numbers whole."""
    if value is None:
        return "–"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _joules(report: BenchReport) -> list[str]:
    return [f"J of {meter}" for meter in report.energy.meters]


def _lines(report: BenchReport) -> Iterator[str]:
    """Say in words what the table does not hold."""
    for path in dict.fromkeys(row.path for row in report.timings):
        yield f"{path:7} {_MEANING[path]}"
    for item in report.variants:
        if item.trouble:
            yield f"{item.variant}: not measured: {item.trouble}"
            continue
        memory = "" if item.memory_mb is None else f", {item.memory_mb:.0f} MB"
        card = "" if item.gpu_memory_mb is None else f", {item.gpu_memory_mb:.0f} MB of the GPU's"
        runs = f"{item.engine} {item.library_version}, {item.gpu or item.provider}, {item.threads} thread(s)"
        plan = f", engine {item.plan}" if item.plan else ""
        yield f"{item.variant}: {runs}; loaded in {item.load_s:.2g} s{plan}{memory}{card}"
        yield from (f"{item.variant}: {note}" for note in item.notes)
    for meter, watts in report.energy.idle_watts.items():
        yield f"energy of the {meter}: one decision, idle power of {watts:.3g} W included"
    for why in report.energy.not_readable:
        yield f"energy not readable here: {why}"
    yield from report.notes
    load = "" if report.load is None else f", load {report.load:.1f} when it began"
    yield f"{report.processor}, {report.cores} cores{load}"

"""`edge-sft bundle`: look into a bundle, verify it, sign it again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_sft.cli.console import console
from edge_sft.cli.paths import keys_directory

if TYPE_CHECKING:
    from edge_sft.bundle.manifest import GateResult, Manifest
    from edge_sft.bundle.reading import VerifiedBundle

BundleFile = Annotated[Path, typer.Argument(metavar="BUNDLE", help="The .edge file.")]
KeyFolder = Annotated[Path | None, typer.Option("--keys", help="Key folder [your configuration folder].")]


def inspect(bundle: BundleFile, directory: KeyFolder = None) -> None:
    """Show what a bundle holds; like everything else, only after its signature was found good."""
    found = _verified(bundle, directory)
    _show(found.manifest)
    console.print(f"signed by {found.signer.name} ({found.signer.key_id}), trusted here; digest {found.digest}")


def verify(bundle: BundleFile, directory: KeyFolder = None) -> None:
    """Check signature, layout and every file of a bundle against the trusted keys; changes nothing."""
    found = _verified(bundle, directory)
    count = len(found.manifest.files)
    console.print(f"ok: {bundle.name} is whole ({count} files), signed by {found.signer.name} ({found.signer.key_id})")
    console.print(f"digest {found.digest}")


def sign(
    bundle: BundleFile,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the signed bundle [beside the old one: replaces it].")
    ] = None,
    key: Annotated[Path | None, typer.Option(help="Private key file [key 'default' of the key folder].")] = None,
    passphrase_file: Annotated[Path | None, typer.Option(help="File with the key's passphrase.")] = None,
    directory: KeyFolder = None,
) -> None:
    """Sign a bundle with another key, e.g. the plant's own after the maker's. The old signature must be trusted."""
    from edge_sft.bundle import keys, writing
    from edge_sft.bundle.manifest import Draft
    from edge_sft.cli.keys import read_passphrase

    folder = directory or keys_directory()
    found = _verified(bundle, directory)
    private = keys.load_private(key or keys.private_path(folder), read_passphrase(passphrase_file))
    draft = Draft(**{name: getattr(found.manifest, name) for name in Draft.model_fields})
    contents = {entry.name: found.read(entry.name) for entry in found.manifest.files}
    written = writing.write_bundle(out or bundle.parent, draft, contents, private)
    console.print(f"signed with {private.name} ({private.public.key_id}): {written}")


def _verified(bundle: Path, directory: Path | None) -> VerifiedBundle:
    from edge_sft.bundle import keys, reading

    return reading.open_verified(bundle, keys.trusted(directory or keys_directory()))


def gate_line(gate: GateResult) -> str:
    """Say in one line how a variant compared with the model it was made from."""
    start = f"{gate.variant:<9} {'passed' if gate.passed else 'LEFT OUT'}  "
    flips = f"{gate.right_to_wrong} right→wrong, {gate.wrong_to_right} wrong→right of {gate.pictures}"
    points = f"net loss {gate.net_loss_points:.2f} of {gate.tolerance_points:.2f} points allowed"
    if gate.before is not None and gate.after is not None:
        points += f", {gate.measure} {gate.before:.4g} → {gate.after:.4g}"
    return f"{start}{flips}, {points}" + (f" ({gate.note})" if gate.note else "")


def _input_of(manifest: Manifest) -> str:
    spec = manifest.preprocess
    if spec.kind == "window":
        return f"{len(spec.names)} channels, {spec.length} steps of {spec.period_s:g}"
    return f"{spec.width}×{spec.height} pixels"


def _show(manifest: Manifest) -> None:
    good = ", ".join(manifest.task.ok_labels) or "none"
    shown = "windows" if manifest.task.modality == "window" else "pictures"
    lines = [
        f"{manifest.name} {manifest.version}: {manifest.task.kind}, {_input_of(manifest)}",
        f"made {manifest.created_at} by {manifest.made_by}",
        *([f"labels {', '.join(manifest.task.labels)}; good: {good}"] if manifest.task.labels else []),
        f"variants, against the model they were made from, on validation {shown}:",
        *(f"  {gate_line(gate)}" for gate in manifest.gates),
        "files:",
        *(f"  {entry.size_bytes:>12,} bytes  {entry.sha256[:16]}  {entry.name}" for entry in manifest.files),
    ]
    console.print("\n".join(lines), markup=False)

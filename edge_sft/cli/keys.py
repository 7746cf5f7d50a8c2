"""`edge-sft keys`: make a signing key, trust somebody's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge_sft.cli.console import console
from edge_sft.cli.paths import keys_directory
from edge_sft.errors import UserError


def init(
    name: Annotated[
        str, typer.Option(help="Name of the key; bundles are signed with 'default' unless told.")
    ] = "default",
    directory: Annotated[Path | None, typer.Option("--keys", help="Key folder [your configuration folder].")] = None,
    passphrase_file: Annotated[Path | None, typer.Option(help="Lock the key with the passphrase in this file.")] = None,
) -> None:
    """Make a signing key. This machine trusts it at once; others after `edge-sft keys trust`."""
    from edge_sft.bundle import keys

    pair = keys.generate(directory or keys_directory(), name, passphrase=read_passphrase(passphrase_file))
    console.print(f"key id   {pair.key_id}")
    console.print(f"private  {pair.private}  (keep it here; whoever has it can make bundles your machines run)")
    console.print(
        f"public   {pair.public}  (copy it to each machine, then there: edge-sft keys trust {pair.public.name})"
    )


def trust(
    file: Annotated[Path, typer.Argument(help="The maker's public key, a .pub.pem file.")],
    directory: Annotated[Path | None, typer.Option("--keys", help="Key folder [your configuration folder].")] = None,
) -> None:
    """Run bundles signed with this key on this machine from now on."""
    from edge_sft.bundle import keys

    folder = directory or keys_directory()
    key = keys.trust(folder, file)
    console.print(f"trusted: {key.name}, id {key.key_id} (compare it with its maker's). To undo, remove its file from")
    console.print(f"{folder / keys.TRUSTED}")


def read_passphrase(path: Path | None) -> bytes | None:
    """Return a passphrase file's first line, None without a file. Raises UserError when it cannot be read."""
    if path is None:
        return None
    try:
        return path.read_bytes().split(b"\n")[0].rstrip(b"\r")
    except OSError as error:
        raise UserError(str(path), f"cannot be read ({error.strerror or error})", "Check --passphrase-file.") from error

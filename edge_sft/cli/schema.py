"""`edge-sft schema`: the JSON Schema of the messages on MQTT."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def schema(
    out: Annotated[Path | None, typer.Option(help="write it to this file instead of printing it")] = None,
) -> None:
    """Print the JSON Schema of every message on the `prediction` topic."""
    from edge_sft.prediction import schema_text

    text = schema_text()
    if out is None:
        print(text, end="")
        return
    from edge_sft import durable

    durable.write_text(out, text)

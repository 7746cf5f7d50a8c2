"""`edge-sft run` as it is, with what its model is asked and says written down; for streamed.py.

    python benchmarks/streamed_tap.py FILE run --config agent.toml --root DIR

A line a call of `WindowPredictor.decide`: every window's machine, name and SHA-256, and the Prediction's numbers. Lines
are handed to the kernel before the Predictions go on, so that a kill -9 takes none that was published.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from edge_sft.prediction import Prediction
from edge_sft.preprocess.window import Window
from edge_sft.slots.window_predictor import WindowPredictor, name_of

FIELDS = ("verdict", "label", "score", "confidence", "probabilities", "value", "low", "high", "channels", "reason")


def digest(window: Window) -> str:
    return hashlib.sha256(window.values.tobytes() + window.valid.tobytes()).hexdigest()


def said(prediction: Prediction) -> dict[str, Any]:
    """What a Prediction says, without when and by whom."""
    return prediction.model_dump(include=set(FIELDS))


def tap(path: str) -> None:
    """Write down every call of `decide` from now on."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    decide = WindowPredictor.decide

    def tapped(self: WindowPredictor, windows: Sequence[Window], **given: Any) -> list[Prediction]:
        predictions = decide(self, windows, **given)
        asked = [[window.asset, name_of(window.end), digest(window)] for window in windows]
        line = {"process": os.getpid(), "windows": asked, "said": [said(one) for one in predictions]}
        os.write(file, json.dumps(line).encode() + b"\n")
        return predictions

    WindowPredictor.decide = tapped  # type: ignore[method-assign]


if __name__ == "__main__":
    from edge_sft.cli.main import main

    tap(sys.argv.pop(1))
    main()

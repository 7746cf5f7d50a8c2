from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edge_sft.bundle import keys as bundle_keys
from edge_sft.bundle import reading
from edge_sft.cli import bundle as verbs
from edge_sft.cli import keys as key_verbs
from edge_sft.errors import BundleRefused, UserError


def test_make_trust_sign_verify_inspect(
    make: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    maker, plant = tmp_path / "keys", tmp_path / "plant"
    path = make()
    secret = tmp_path / "secret"
    secret.write_text("open sesame\n")
    key_verbs.init("plant", plant, secret)
    key_verbs.trust(maker / "default.pub.pem", plant)
    verbs.verify(path, plant)
    assert "signed by default" in capsys.readouterr().out
    verbs.sign(path, tmp_path / "signed", plant / "plant.pem", secret, plant)
    signed = tmp_path / "signed" / path.name
    verbs.inspect(signed, plant)
    shown = capsys.readouterr().out
    assert "screws 1.2.3" in shown
    assert "signed by plant" in shown
    with pytest.raises(BundleRefused, match="none of the trusted keys"):
        verbs.verify(signed, maker)
    before, after = (reading.open_verified(file, bundle_keys.trusted(plant)) for file in (path, signed))
    assert before.digest == after.digest  # the same model, vouched for by somebody else


def test_what_is_missing_is_said(make: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="keys trust"):
        verbs.verify(make(), tmp_path / "nobody")
    with pytest.raises(UserError, match="keys init"):
        verbs.sign(make(), None, tmp_path / "none.pem", None, tmp_path / "keys")
    with pytest.raises(UserError, match="passphrase-file"):
        key_verbs.init("x", tmp_path / "x", tmp_path / "gone")

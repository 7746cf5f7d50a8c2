"""The coordinator's folder: made once, readable again, renewed with the same authority, wrong days said."""

from __future__ import annotations

import stat
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from edge_sft.errors import DeviceError, UserError
from edge_sft.federated import coordinator, pki
from edge_sft.federated.coordinator import Federation

NOW = datetime.now(timezone.utc)
SETTINGS = Federation(name="three plants", address="h.example:8443", names=("10.0.0.9",), listen="0.0.0.0:8443")


def test_it_is_read_as_it_was_made_and_keys_are_the_owners_only(tmp_path: Path):
    made = coordinator.create(tmp_path / "f", SETTINGS, NOW)

    folder, settings = coordinator.load(tmp_path / "f")
    assert (folder, settings) == (made, SETTINGS)
    for secret in (folder.key, folder.root / "ca.key"):
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.root.stat().st_mode) == 0o700
    assert coordinator.warnings(folder, settings, NOW) == []


def test_it_is_made_once(tmp_path: Path):
    coordinator.create(tmp_path / "f", SETTINGS, NOW)
    with pytest.raises(UserError, match="exists already"):
        coordinator.create(tmp_path / "f", SETTINGS, NOW)


def test_a_folder_that_nginx_would_misread_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="nginx takes for its own"):
        coordinator.create(tmp_path / 'a";b$x', SETTINGS, NOW)


def test_where_there_is_none_it_says_how_to_make_one(tmp_path: Path):
    with pytest.raises(UserError, match="edge-sft federate init"):
        coordinator.load(tmp_path)


def test_renewal_keeps_the_authority_and_may_add_names(tmp_path: Path):
    folder = coordinator.create(tmp_path / "f", SETTINGS, NOW)
    authority = folder.authority.read_bytes()
    later = NOW + timedelta(days=720)
    assert "ends in" in coordinator.warnings(folder, SETTINGS, later)[0]

    found = coordinator.renew(folder.root, later, ["new.example"])

    assert folder.authority.read_bytes() == authority
    assert {"h.example", "10.0.0.9", "new.example"} <= set(found.names)
    settings = coordinator.load(folder.root)[1]
    assert settings.names == ("10.0.0.9", "new.example")
    assert coordinator.warnings(folder, settings, later) == []


def test_without_the_authoritys_key_it_says_to_bring_it_back(tmp_path: Path):
    folder = coordinator.create(tmp_path / "f", SETTINGS, NOW)
    (folder.root / "ca.key").unlink()

    with pytest.raises(UserError, match="Bring the authority's key back"):
        coordinator.renew(folder.root, NOW)


def test_an_expired_certificate_and_a_wrong_clock_are_told_apart(tmp_path: Path):
    folder = coordinator.create(tmp_path / "f", SETTINGS, NOW)

    with pytest.raises(DeviceError, match="--renew"):
        coordinator.warnings(folder, SETTINGS, NOW + timedelta(days=pki.SERVER_DAYS + 1))
    with pytest.raises(DeviceError, match="Set the clock"):
        coordinator.warnings(folder, SETTINGS, NOW - timedelta(days=3))


def test_a_changed_address_asks_for_renewal(tmp_path: Path):
    folder = coordinator.create(tmp_path / "f", SETTINGS, NOW)
    text = folder.settings.read_text().replace("h.example", "other.example")
    folder.settings.write_text(text)

    with pytest.raises(DeviceError, match=r"lacks other\.example"):
        coordinator.warnings(*coordinator.load(folder.root), NOW)


@pytest.mark.parametrize(
    ("line", "says"),
    [('name = ";{"', "federation's name"), ('address = "h"', "HOST:PORT"), ("superlink_port = 0", "greater than 0")],
)
def test_mistakes_in_federation_toml_are_said_with_their_line(tmp_path: Path, line: str, says: str):
    folder = coordinator.create(tmp_path / "f", SETTINGS, NOW)
    key = line.split(" ", 1)[0]
    rows = [line if row.startswith(f"{key} ") else row for row in folder.settings.read_text().splitlines()]
    folder.settings.write_text("\n".join(rows))

    with pytest.raises(UserError, match=rf"line \d+: .*{says}"):
        coordinator.load(folder.root)


def test_ports_of_ours_are_not_lent_to_others_and_an_old_one_is_said(tmp_path: Path):
    assert max(coordinator.SUPERLINK_PORT, coordinator.PROXY_PORT) < 32768
    folder = coordinator.create(tmp_path / "f", SETTINGS, NOW)
    (said,) = coordinator.warnings(folder, SETTINGS.model_copy(update={"superlink_port": 39400}), NOW)
    assert said.startswith("superlink_port 39400 is among those that Linux lends to outgoing connections")
    page = (Path(__file__).parents[2] / "docs" / "federated-coordinator.md").read_text(encoding="utf-8")
    assert f"127.0.0.1:{coordinator.SUPERLINK_PORT}" in page
    assert f"--port {coordinator.SUPERLINK_PORT}" in page

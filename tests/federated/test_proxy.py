"""nginx's configuration: what it lets through, what nginx itself says of it, what is said where nginx is missing."""

from __future__ import annotations

import re
import shutil
import socket
from datetime import datetime, timezone
from pathlib import Path

import pytest

from edge_sft.errors import DeviceError
from edge_sft.federated import coordinator, proxy
from edge_sft.federated.coordinator import Federation, Folder

NOW = datetime.now(timezone.utc)
SETTINGS = Federation(name="test", address="h.example:8443", listen="127.0.0.1:18443")


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return coordinator.create(tmp_path / "a folder", SETTINGS, NOW)


def test_exactly_the_paths_of_a_registered_site_are_let_through(folder):
    text = proxy.configuration(folder, SETTINGS)

    located = re.findall(r"location = /v1/fleet/([a-z-]+) \{", text)
    assert tuple(located) == proxy.PATHS
    assert "register-node" not in located
    assert "unregister-node" not in located
    assert re.findall(r"location (?!=)(\S+) \{ (.*) \}", text) == [("/", "return 403;")]
    passed = re.findall(r"proxy_pass (\S+);", text)
    assert passed == [f"https://superlink/v1/fleet/{path}" for path in proxy.PATHS]  # never what the site typed


def test_the_paths_are_flowers():
    pytest.importorskip("flwr", reason="without flwr the proxy's paths are not compared with its own")
    from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES

    fleet = {path.removeprefix("/v1/fleet/") for _, path in PROTOBUF_REQUEST_TYPES if path.startswith("/v1/fleet/")}
    assert fleet == {*proxy.PATHS, "register-node", "unregister-node"}


def test_the_headers_are_those_that_flowers_node_sends():
    pytest.importorskip("flwr", reason="without flwr the proxy's headers are not compared with its own")
    from flwr.common.constant import TIMESTAMP_HEADER
    from flwr.supercore import constant
    from flwr.supercore.runtime_version_compatibility import RuntimeVersionMetadata

    sent = {constant.FLEET_HTTP_PUBLIC_KEY_HEADER, constant.FLEET_HTTP_SIGNATURE_HEADER, TIMESTAMP_HEADER}
    sent |= {name for name, _ in RuntimeVersionMetadata.from_local_component("SuperNode").as_metadata()}
    assert sent | {"Content-Type", "Accept"} == set(proxy._HEADERS)


@pytest.mark.skipif(not shutil.which("nginx"), reason="nginx is not installed: its opinion of the configuration")
def test_nginx_takes_it(folder):
    assert proxy.prepare(folder, SETTINGS).is_file()


@pytest.mark.skipif(not shutil.which("nginx"), reason="nginx is not installed: its opinion of the configuration")
def test_what_nginx_refuses_is_said_in_its_words(folder):
    folder.certificate.write_text("nonsense")

    with pytest.raises(DeviceError, match=r"refused by nginx .*cannot load certificate"):
        proxy.prepare(folder, SETTINGS)


def test_without_nginx_it_says_what_to_install(folder, monkeypatch):
    monkeypatch.setattr(proxy.shutil, "which", lambda name: None)
    monkeypatch.setattr(proxy, "_runs", lambda path: False)

    with pytest.raises(DeviceError, match="apt install nginx-light"):
        proxy.part(folder, SETTINGS, {})


def test_a_port_in_use_is_said_before_nginx_starts(folder, monkeypatch):
    monkeypatch.setattr(proxy, "program", lambda: "/usr/sbin/nginx")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        part = proxy.part(folder, SETTINGS.model_copy(update={"listen": f"127.0.0.1:{port}"}), {})
        with pytest.raises(DeviceError, match=f"127.0.0.1:{port}: is in use by another program"):
            part.prepare()
        assert part.ready()
    assert not part.ready()


def test_an_address_of_another_machine_is_said(folder, monkeypatch):
    monkeypatch.setattr(proxy, "program", lambda: "/usr/sbin/nginx")
    part = proxy.part(folder, SETTINGS.model_copy(update={"listen": "192.0.2.1:18443"}), {})

    with pytest.raises(DeviceError, match=r"cannot be listened on"):
        part.prepare()

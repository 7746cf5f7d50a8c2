import socket
import stat
import sys

import pytest

from edge_sft.errors import DeviceError, NetworkError, UserError
from edge_sft.runtime import broker, broker_engines
from edge_sft.runtime.mqtt import MqttLink, MqttSettings


@pytest.fixture(scope="module")
def amqtt_environment(tmp_path_factory):
    environment = tmp_path_factory.mktemp("amqtt") / "broker-env"
    try:
        broker_engines.amqtt_python(environment, lambda _: None)
    except DeviceError as error:
        pytest.skip(f"no package index here, so the amqtt engine was not proved: {error}")
    return environment


@pytest.fixture(params=["mosquitto", pytest.param("amqtt", marks=pytest.mark.slow)])
def engine(request):
    """The options of `start` that choose an engine."""
    if request.param == "mosquitto":
        if broker_engines.find_mosquitto() is None:
            pytest.skip("no mosquitto here: the Mosquitto engine was not proved")
        return {"engine": "mosquitto"}
    return {"engine": "amqtt", "environment": request.getfixturevalue("amqtt_environment")}


def settings(running, **options):
    given = {"username": running.username, "password_file": running.password_file, **options}
    return MqttSettings(port=running.port, first_wait_s=0.05, longest_wait_s=0.2, **given)


def test_it_serves_with_its_password_only(tmp_path, engine, eventually):
    got = []
    with broker.start(tmp_path / "b", **engine) as running:
        assert running.engine == engine["engine"]
        assert stat.S_IMODE(running.password_file.stat().st_mode) == 0o600
        with MqttLink(settings(running), client_id="a") as link:
            link.subscribe("x", lambda _, payload: got.append(payload))
            link.wait_connected(20)
            eventually(lambda: link.publish("x", b"hello") and bool(got))
        (tmp_path / "wrong").write_text("guess")
        for options in ({"password_file": tmp_path / "wrong"}, {"username": None, "password_file": None}):
            with MqttLink(settings(running, **options), client_id="b") as link:
                eventually(lambda link=link: link.last_error is not None)
                with pytest.raises(NetworkError, match="wrong user name or password"):
                    link.wait_connected(0.1)
        password, port = running.password_file.read_text(), running.port
    assert not running.running
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), 1)
    with broker.start(tmp_path / "b", port, **engine) as again:
        assert (again.password_file.read_text(), again.port) == (password, port)


def test_beyond_loopback_only_with_tls(tmp_path, engine, certificates):
    with pytest.raises(UserError, match="without encryption"):
        broker.start(tmp_path / "b", host="0.0.0.0", **engine)
    ca = certificates("plant")
    cert, key = ca.issue("server")
    with broker.start(tmp_path / "b", host="0.0.0.0", cert_file=cert, key_file=key, **engine) as running:
        with MqttLink(settings(running, ca_file=ca.ca_file), client_id="a") as link:
            link.wait_connected(20)


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False), ("plant", False)],
)
def test_loopback_is_recognised(host, local):
    assert broker.is_loopback(host) is local


def test_a_taken_port_is_said_in_one_line(tmp_path):
    if broker_engines.find_mosquitto() is None:
        pytest.skip("no mosquitto here")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(DeviceError, match="Is the port taken") as caught:
            broker.start(tmp_path / "b", other.getsockname()[1], engine="mosquitto")
    assert "Address already in use" in str(caught.value)


def test_half_of_tls_or_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="a certificate and its key"):
        broker.start(tmp_path, cert_file=tmp_path / "x")
    with pytest.raises(UserError, match="does not exist"):
        broker.start(tmp_path, cert_file=tmp_path / "x", key_file=tmp_path / "y")


def test_auto_takes_mosquitto_where_it_is(monkeypatch):
    monkeypatch.setattr(broker_engines, "find_mosquitto", lambda: "/usr/sbin/mosquitto")
    assert broker_engines.choose("auto") == "mosquitto"
    monkeypatch.setattr(broker_engines, "find_mosquitto", lambda: None)
    assert broker_engines.choose("auto") == "amqtt"
    with pytest.raises(UserError, match="is not installed"):
        broker_engines.choose("mosquitto")
    with pytest.raises(UserError, match="is not known"):
        broker_engines.choose("rabbit")


def test_without_a_package_index_it_says_what_to_do(tmp_path, monkeypatch):
    real = broker_engines._run
    ran = []

    def run(command, given=None):
        ran.append(command)
        if "pip" in command:
            return real([sys.executable, "-m", "pip", "install", "--index-url", "http://127.0.0.1:9/simple",
                         "--retries", "0", "--target", str(tmp_path / "t"), "amqtt==0.12.1"])  # fmt: skip
        (tmp_path / "env").mkdir()
        return ""

    monkeypatch.setattr(broker_engines, "_run", run)
    with pytest.raises(DeviceError, match="install Mosquitto") as caught:
        broker_engines.amqtt_python(tmp_path / "env", lambda _: None)
    assert "amqtt==0.12.1 cannot be installed" in str(caught.value)
    assert not (tmp_path / "env").exists()
    assert len(ran) == 2

import json
import logging
import random
import socket
import threading
import time
from pathlib import Path

import pytest

from edge_sft.errors import NetworkError
from edge_sft.runtime.mqtt import MqttLink, MqttSettings, Will


def settings(port, **options):
    defaults = {"host": "127.0.0.1", "first_wait_s": 0.05, "longest_wait_s": 0.2, "connect_timeout_s": 2.0}
    return MqttSettings(port=port, **{**defaults, **options})


def failure_of(given):
    """Try to connect; return the one line."""
    with MqttLink(given, client_id="probe") as link:
        deadline = time.monotonic() + 10
        while link.last_error is None and time.monotonic() < deadline:
            time.sleep(0.01)
        with pytest.raises(NetworkError) as caught:
            link.wait_connected(0.0)
        assert not link.connected
        assert link.publish("t", b"x") is False
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("version", ["3.1.1", "5"])
def test_messages_go_and_come(mosquitto, eventually, version):
    broker = mosquitto()
    got, answers = [], []
    with MqttLink(settings(broker.port, version=version), client_id="a") as link:
        link.subscribe("x/+", lambda topic, payload: got.append((topic, payload)))
        link.wait_connected(20)
        eventually(lambda: link.publish("x/1", b"one", done=answers.append))
        eventually(lambda: got == [("x/1", b"one")])
        eventually(lambda: answers == [True])
        link.subscribe("y", lambda topic, payload: got.append((topic, payload)))
        for number in range(300):
            assert link.publish("y", str(number), done=answers.append)
        eventually(lambda: len(answers) == 301 and len(got) == 301)
        assert [payload for topic, payload in got[1:]] == [str(n).encode() for n in range(300)]


def test_mqtt5_keeps_to_what_the_broker_allows(mosquitto):
    broker = mosquitto("max_inflight_messages 7")
    with MqttLink(settings(broker.port, version="5"), client_id="a", window=500) as link:
        link.wait_connected(20)
        assert link.window == 5
    with MqttLink(settings(broker.port), client_id="a", window=500) as link:
        link.wait_connected(20)
        assert link.window == 500


def test_it_comes_back_after_the_broker_was_killed_and_subscribes_again(mosquitto, eventually, caplog):
    broker = mosquitto()
    got, connections = [], []
    with caplog.at_level(logging.INFO, logger="edge_sft.runtime.mqtt"):
        link = MqttLink(settings(broker.port), client_id="a")
        link.on_connected(lambda: connections.append(link.session))  # before it can be connected
        with link:
            link.subscribe("x", lambda _, payload: got.append(payload))
            link.wait_connected(20)
            assert link.last_error is None
            broker.kill()
            eventually(lambda: link.last_error is not None and "connection refused" in str(link.last_error))
            threading.Event().wait(0.6)  # several more attempts
            broker.start()
            link.wait_connected(20)
            eventually(lambda: link.publish("x", b"again") and bool(got))
    assert connections == [1, 2]
    refused = [r for r in caplog.records if "connection refused" in r.message]
    assert len(refused) == 1, "said once per change of state, not at every attempt"
    assert len([r for r in caplog.records if r.message.startswith("connected")]) == 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_it_outlives_its_own_thread(mosquitto, eventually, monkeypatch):
    broker = mosquitto()
    link = MqttLink(settings(broker.port), client_id="a")
    real = link._live_guarded
    die = [True]

    def live():
        if die and die.pop():
            raise SystemExit
        return real()

    monkeypatch.setattr(link, "_live_guarded", live)
    with link:
        eventually(lambda: link.connected)


def test_a_failing_callback_does_not_take_the_connection_down(mosquitto, eventually):
    broker = mosquitto()
    got = []

    def fail(topic, payload):
        got.append(payload)
        raise RuntimeError("out of the blue")

    with MqttLink(settings(broker.port), client_id="a") as link:
        link.subscribe("x", fail)
        link.wait_connected(20)
        link.publish("x", b"1")
        link.publish("x", b"2")
        eventually(lambda: got == [b"1", b"2"])
        assert link.session == 1


def test_a_stuck_connection_is_made_anew(mosquitto, eventually):
    broker = mosquitto()
    with MqttLink(settings(broker.port), client_id="a") as link:
        link.wait_connected(20)
        link.reset()
        eventually(lambda: link.session == 2 and link.connected)


def test_the_will_is_published_by_the_broker_but_not_after_a_farewell(mosquitto, eventually):
    broker = mosquitto()
    seen = []
    with MqttLink(settings(broker.port), client_id="watcher") as watcher:
        watcher.subscribe("state", lambda _, payload: seen.append(payload))
        watcher.wait_connected(20)
        polite = MqttLink(settings(broker.port), client_id="a", will=Will("state", b"lost")).start()
        polite.wait_connected(20)
        polite.stop()
        rude = MqttLink(settings(broker.port, longest_wait_s=60, first_wait_s=60), client_id="b", rng=random.Random(1))
        rude._will = Will("state", b"rude")
        with rude:
            rude.wait_connected(20)
            rude.reset()
            eventually(lambda: seen == [b"rude"])


def test_backoff_grows_with_full_jitter_to_its_ceiling():
    link = MqttLink(settings(1, first_wait_s=1.0, longest_wait_s=30.0), client_id="a", rng=random.Random(3))
    rounds = []
    for _ in range(300):
        link._failures = 0
        rounds.append([link._next_wait() for _ in range(8)])
    tops = [max(column) for column in zip(*rounds, strict=True)]
    lows = [min(column) for column in zip(*rounds, strict=True)]
    assert [round(top, 0) for top in tops] == [1, 2, 4, 8, 16, 30, 30, 30]
    assert all(low < top * 0.05 for low, top in zip(lows, tops, strict=True))


def test_no_broker(free_port):
    assert "no broker answers there (connection refused)" in failure_of(settings(free_port()))


def test_unknown_name():
    assert "the name cannot be resolved" in failure_of(settings(1883, host="no-such-broker.invalid"))


def test_something_else_listens():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        said = failure_of(settings(other.getsockname()[1], connect_timeout_s=0.5))
    assert "accepts connections but does not answer" in said


@pytest.mark.parametrize("version", ["3.1.1", "5"])
def test_wrong_password(mosquitto, tmp_path, version):
    from edge_sft.runtime.broker_engines import mosquitto_hash

    users = tmp_path / "users"
    users.write_text(f"press:{mosquitto_hash('right')}\n")
    users.chmod(0o600)
    broker = mosquitto(f"password_file {users}", anonymous=False)
    password = tmp_path / "password"
    password.write_text("wrong\n")
    given = settings(broker.port, version=version, username="press", password_file=password)
    assert "refuses user 'press': wrong user name or password" in failure_of(given)
    assert "a client without user name" in failure_of(settings(broker.port, version=version))
    password.write_text("right\n")
    with MqttLink(given, client_id="a") as link:
        link.wait_connected(20)


def test_missing_password_file(tmp_path):
    given = settings(1883, username="press", password_file=tmp_path / "none")
    assert f"{tmp_path / 'none'}: does not exist" in failure_of(given)


@pytest.fixture
def tls(mosquitto, certificates):
    """A TLS broker: ``tls(first_day=…, last_day=…)`` returns (broker, its CA)."""

    def make(*lines, **validity):
        ca = certificates("plant")
        cert, key = ca.issue("server", **validity)
        return mosquitto(f"cafile {ca.ca_file}", f"certfile {cert}", f"keyfile {key}", *lines), ca

    return make


def test_tls_with_the_right_and_the_wrong_ca(tls, certificates):
    broker, ca = tls()
    with MqttLink(settings(broker.port, ca_file=ca.ca_file), client_id="a") as link:
        link.wait_connected(20)
    wrong = certificates("stranger").ca_file
    assert "was not issued by the given CA" in failure_of(settings(broker.port, ca_file=wrong))
    assert "closed the connection before answering" in failure_of(settings(broker.port))


@pytest.mark.parametrize(
    ("validity", "words"),
    [({"first_day": -9, "last_day": -2}, "has expired"), ({"first_day": 5, "last_day": 9}, "is not valid yet")],
)
def test_certificate_out_of_its_time_names_the_clock(tls, validity, words):
    broker, ca = tls(**validity)
    said = failure_of(settings(broker.port, ca_file=ca.ca_file))
    assert words in said
    assert "this machine's clock" in said


def test_a_certificate_near_its_end_is_announced(tls):
    broker, ca = tls(last_day=7)
    cert, key = ca.issue("device", last_day=3)
    events = []
    given = settings(broker.port, ca_file=ca.ca_file, cert_file=cert, key_file=key)
    with MqttLink(given, client_id="a", on_event=lambda *event: events.append(event)) as link:
        link.wait_connected(20)
        link.stop()
    told = [text for kind, text in events if kind == "certificate_expires"]
    assert told == ["the broker's certificate expires in 7 days", "this device's certificate expires in 3 days"]


def test_client_certificates_are_required_refused_and_rotated(tls, certificates, eventually):
    broker, ca = tls("require_certificate true")
    assert "require a client certificate" in failure_of(settings(broker.port, ca_file=ca.ca_file))
    bad_cert, bad_key = certificates("stranger").issue("device")
    given = settings(broker.port, ca_file=ca.ca_file, cert_file=bad_cert, key_file=bad_key)
    assert "may not trust the client certificate" in failure_of(given)
    cert, key = ca.issue("device")
    with MqttLink(given, client_id="a") as link:
        eventually(lambda: link.last_error is not None)
        bad_key.write_bytes(key.read_bytes())
        bad_cert.write_bytes(cert.read_bytes())
        link.wait_connected(20)  # the files are read again at every attempt


def test_tls_asked_of_a_plain_port(mosquitto, certificates):
    broker = mosquitto()
    said = failure_of(settings(broker.port, ca_file=certificates("plant").ca_file))
    assert "does not speak TLS" in said or "closed the connection" in said or "TLS failed" in said


def test_ca_file_that_is_no_certificate(tmp_path):
    nonsense = tmp_path / "ca.pem"
    nonsense.write_text("not a certificate")
    assert "cannot be used for TLS" in failure_of(settings(1883, ca_file=nonsense))
    assert "does not exist" in failure_of(settings(1883, ca_file=tmp_path / "none.pem"))


@pytest.mark.parametrize("version", ["3.1.1", "5"])
def test_a_subscription_that_is_refused_is_said_and_is_not_only_silence(mosquitto, eventually, tmp_path, version):
    plugin = next(Path("/usr/lib").glob("**/mosquitto_dynamic_security.so"), None)
    if plugin is None:
        pytest.skip("this mosquitto has no dynamic security: a refused subscription was not proved")
    rule = {"acltype": "subscribePattern", "topic": "mine/#", "allow": True}
    rights = {"publishClientSend": True, "publishClientReceive": True, "subscribe": False, "unsubscribe": True}
    (tmp_path / "rights.json").write_text(
        json.dumps(
            {
                "defaultACLAccess": rights,
                "anonymousGroup": "all",
                "groups": [{"groupname": "all", "roles": [{"rolename": "own"}]}],
                "roles": [{"rolename": "own", "acls": [rule]}],
            }
        )
    )
    broker = mosquitto(f"plugin {plugin}", f"plugin_opt_config_file {tmp_path / 'rights.json'}")
    events, got = [], []
    given = settings(broker.port, version=version)
    with MqttLink(given, client_id="a", on_event=lambda kind, text: events.append((kind, text))) as link:
        link.subscribe("mine/x", lambda _, payload: got.append(payload))
        link.wait_connected(20)
        assert link.subscription_error is None
        assert link.publish("mine/x", b"heard")
        eventually(lambda: got == [b"heard"])
        link.subscribe("theirs/#", lambda _, payload: got.append(payload))
        with pytest.raises(NetworkError, match="does not let a client without user name subscribe to theirs/#"):
            link.wait_connected(20)
        assert link.connected
        assert [kind for kind, _ in events] == ["mqtt_connected", "mqtt_subscription_refused"]

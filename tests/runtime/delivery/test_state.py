import json

from edge_sft.runtime.mqtt import MqttLink, MqttSettings
from edge_sft.runtime.state import StateBeat, last_will
from edge_sft.runtime.topics import Topics

TOPICS = Topics("s", "l", "d")


def test_states_are_retained_renewed_and_end_offline(mosquitto, eventually):
    broker = mosquitto()
    given = MqttSettings(port=broker.port, first_wait_s=0.05, longest_wait_s=0.2)
    seen = {}
    age = [None]

    def described():
        return {"cam": {"last_decision_age_s": age[0], "model": {"name": "m", "digest": "ab"}}}

    with MqttLink(given, client_id="d", will=last_will(TOPICS)) as link:
        with StateBeat(link, TOPICS, described, versions={"edge-sft": "0.1.0"}, every_s=0.2):
            link.wait_connected(20)
            with MqttLink(given, client_id="late") as watcher:
                watcher.subscribe("#", lambda topic, payload: seen.update({topic: json.loads(payload)}))
                eventually(lambda: len(seen) == 2)
                state, device = seen[TOPICS.state("cam")], seen[TOPICS.device_state]
                assert (state["online"], state["heartbeat_s"], state["model"]["digest"]) == (True, 0.2, "ab")
                assert device["versions"] == {"edge-sft": "0.1.0"}
                assert device["pipelines"]["cam"]["last_decision_age_s"] is None
                age[0] = 1.5
                eventually(lambda: seen[TOPICS.state("cam")]["last_decision_age_s"] == 1.5)
                broker.kill()
                broker.start()  # without persistence the retained states are gone, and come again
                seen.clear()
                eventually(lambda: len(seen) == 2)
    seen.clear()
    with MqttLink(given, client_id="later") as watcher:
        watcher.subscribe("#", lambda topic, payload: seen.update({topic: json.loads(payload)}))
        eventually(lambda: len(seen) == 2)
        assert [body["online"] for body in seen.values()] == [False, False]
        assert seen[TOPICS.device_state]["reason"] == "stopped"


def test_a_lost_device_is_offline_by_its_will(mosquitto, eventually):
    broker = mosquitto()
    given = MqttSettings(port=broker.port, first_wait_s=30, longest_wait_s=30)
    seen = {}
    with MqttLink(given, client_id="watcher") as watcher:
        watcher.subscribe("#", lambda topic, payload: seen.update({topic: json.loads(payload)}))
        watcher.wait_connected(20)
        with MqttLink(given, client_id="d", will=last_will(TOPICS)) as link:
            link.wait_connected(20)
            link.reset()
            eventually(lambda: seen.get(TOPICS.device_state, {}).get("online") is False)


def test_a_failing_description_does_not_end_the_heartbeat(mosquitto, eventually):
    broker = mosquitto()
    calls = []

    def described():
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("out of the blue")
        return {}

    with MqttLink(MqttSettings(port=broker.port), client_id="d") as link:
        with StateBeat(link, TOPICS, described, every_s=0.05):
            eventually(lambda: len(calls) > 3)

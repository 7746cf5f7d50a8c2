"""Deliveries at the rate of a plant's sensors: the same messages as paho's own client hands on, however they come."""

import random
import socket
import threading

import pytest

from edge_sft.runtime.bulk_client import BulkClient
from edge_sft.runtime.delivery import Acceptance, accept_all
from edge_sft.runtime.mqtt import MqttLink, MqttSettings

PAYLOADS = [b"", b"x", b'{"a":1}', bytes(range(256)) * 5, b"y" * 70_000]


def settings(port, version="3.1.1"):
    return MqttSettings(port=port, version=version, first_wait_s=0.05, longest_wait_s=0.2)


@pytest.mark.parametrize("version", ["3.1.1", "5"])
@pytest.mark.parametrize("qos", [0, 1])
def test_everything_sent_is_delivered_once_and_in_order(mosquitto, eventually, version, qos):
    broker = mosquitto("max_inflight_messages 20\nmax_queued_messages 0")
    got = []

    def deliver(delivery):
        got.append((delivery.topic, delivery.payload))
        delivery.accept()

    given = settings(broker.port, version)
    kinds = PAYLOADS if qos else PAYLOADS[:-1]  # a broker may drop what QoS 0 piles up
    sent = [(f"plant/Öl {number}/x", kinds[number % len(kinds)]) for number in range(400)]
    with (
        MqttLink(given, client_id="to", deliver=deliver) as there,
        MqttLink(given, client_id="from", window=2000) as here,
    ):
        there.subscribe_delivery("plant/#", qos)
        here.wait_connected(20)
        eventually(lambda: here.publish("plant/probe", b"", 0) and got)
        for topic, payload in sent:
            assert here.publish(topic, payload, qos)
        eventually(lambda: got[-1:] == sent[-1:], 20, f"the last of {len(sent)} messages")
    assert [one for one in got if one[0] != "plant/probe"] == sent


def test_answers_of_many_messages_go_with_one_write_and_let_the_broker_go_on(mosquitto, eventually):
    broker = mosquitto("max_inflight_messages 10\nmax_queued_messages 0")
    waiting, got, heard = [], [], threading.Event()

    def deliver(delivery):
        if delivery.topic == "rows":
            waiting.append(delivery.accept)
            got.append(delivery.payload)
        else:
            heard.set()

    with (
        MqttLink(settings(broker.port), client_id="to", deliver=deliver) as there,
        MqttLink(settings(broker.port), client_id="from", window=2000) as here,
    ):
        there.subscribe_delivery("rows")
        there.subscribe_delivery("probe", 0)
        here.wait_connected(20)
        eventually(lambda: here.publish("probe", b"", 0) and heard.is_set())
        for number in range(100):
            assert here.publish("rows", str(number))
        rounds = 0
        while len(got) < 100:  # the broker gives no more before it has its answers
            eventually(lambda: len(waiting) > 0, 3, "messages after answers")
            accept_all([waiting.pop(0) for _ in range(len(waiting))])
            rounds += 1
        assert rounds > 1
    assert got == [str(number).encode() for number in range(100)]


def test_accept_all_keeps_order_and_takes_any_callable():
    calls = []

    class Client:
        def __init__(self, name):
            self.name = name

        def ack_all(self, mids):
            calls.append((self.name, list(mids)))

        def ack(self, mid, qos):
            calls.append((self.name, mid, qos))

    a, b = Client("a"), Client("b")
    accept_all(
        [
            Acceptance(a, 1, 1),
            Acceptance(a, 2, 1),
            Acceptance(b, 1, 1),
            lambda: calls.append("other"),
            Acceptance(b, 7, 2),
            Acceptance(b, 2, 1),
        ]
    )
    assert calls == [("a", [1, 2]), ("b", [1]), "other", ("b", 7, 2), ("b", [2])]
    accept_all([])


def _packet(topic, payload, mid, *, dup=False):
    body = len(topic).to_bytes(2, "big") + topic + mid.to_bytes(2, "big") + payload
    size, length = len(body), b""
    while True:
        size, low = divmod(size, 128)
        length += bytes([low | (128 if size else 0)])
        if not size:
            break
    return bytes([0x32 | (8 if dup else 0)]) + length + body


def _loop_until_closed(client):
    while client.loop(0.05) == 0:
        pass


def test_any_cutting_of_the_bytes_gives_the_same_messages():
    rng = random.Random(3)
    sent = [(b"t/%d" % n, rng.randbytes(rng.choice([0, 1, 130, 17_000])), n + 1, n % 7 == 0) for n in range(60)]
    stream = b"".join(_packet(topic, payload, mid, dup=dup) for topic, payload, mid, dup in sent)
    got = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            peer, _ = server.accept()
            with peer:
                peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                peer.recv(4096)
                peer.sendall(b"\x20\x02\x00\x00")
                at = 0
                while at < len(stream):
                    size = rng.choice([1, 2, 3, 50, 4000, 70_000])
                    peer.sendall(stream[at : at + size])
                    at += size

        from paho.mqtt.enums import CallbackAPIVersion

        thread = threading.Thread(target=serve)
        thread.start()
        client = BulkClient(CallbackAPIVersion.VERSION2, client_id="x", manual_ack=True)
        client.deliver_to(got.append)
        client.connect("127.0.0.1", server.getsockname()[1])
        _loop_until_closed(client)
        thread.join()
    assert [(d.topic.encode(), d.payload, d.accept.mid, d.again) for d in got] == sent


@pytest.mark.parametrize("packet", [b"\x32\x03\x00\x09a", b"\x32\x02\x00\x00", b"\x36\x02\x00\x00", b"\x32\x00"])
def test_a_malformed_packet_ends_the_connection_and_nothing_else(packet):
    got = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            peer, _ = server.accept()
            with peer:
                peer.recv(4096)
                peer.sendall(b"\x20\x02\x00\x00" + _packet(b"t", b"good", 1) + packet)
                peer.settimeout(3)
                while peer.recv(4096):
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        link = MqttLink(MqttSettings(port=server.getsockname()[1], first_wait_s=30), client_id="x", deliver=got.append)
        with link:
            thread.join(10)
    assert [one.payload for one in got] == [b"good"]


def test_the_methods_of_paho_it_builds_on_are_there():
    from paho.mqtt.client import Client

    for name in ("_sock_recv", "_handle_publish", "_packet_queue"):
        assert callable(getattr(Client, name))

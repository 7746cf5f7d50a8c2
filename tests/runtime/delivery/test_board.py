import json

from edge_sft.prediction import DroppedRange, Envelope
from edge_sft.runtime.board import Board
from edge_sft.runtime.topics import Topics

TOPICS = Topics("s", "l", "d")


def envelope(prediction, seq, verdict="ok", **options):
    said = prediction(seq).model_copy(update={"verdict": verdict})
    return Envelope(stream="cam", epoch="0" * 16, seq=seq, prediction=said, **options).to_json()


def test_decisions_are_counted_and_live_ones_measured(prediction):
    board = Board()
    for seq in range(20):
        board.take(TOPICS.prediction("cam"), envelope(prediction, seq, ("ok", "nok")[seq % 2]), 100 + seq * 0.1)
    board.take(TOPICS.prediction("cam"), envelope(prediction, 20, "uncertain", backfill=True), 102)
    view = board.pipelines[TOPICS.root, "cam"]
    assert view.counts == {"ok": 10, "nok": 10, "uncertain": 1}
    assert view.backfilled == 1
    assert view.per_s(102) == 2.0
    assert view.per_s(150) == 0.0
    assert [p.name for p in view.last] == ["19", "18", "17"]
    drop = Envelope(
        stream="cam", epoch="0" * 16, seq=30, dropped=DroppedRange(first_seq=21, last_seq=29, reason="full")
    )
    board.take(TOPICS.prediction("cam"), drop.to_json(), 103)
    assert view.dropped == 9


def test_a_device_is_online_while_its_heart_beats():
    board = Board()
    board.take(TOPICS.device_state, json.dumps({"online": True, "heartbeat_s": 5}).encode(), 100)
    assert board.online(TOPICS.root, 114)
    assert not board.online(TOPICS.root, 116)
    board.take(TOPICS.device_state, json.dumps({"online": False}).encode(), 117)
    assert not board.online(TOPICS.root, 117)
    assert not board.online("unknown", 117)


def test_strange_messages_are_ignored():
    board = Board()
    board.take("other", b"x", 1)
    board.take(TOPICS.prediction("cam"), b"\xff", 1)
    board.take(TOPICS.state("cam"), b"[1]", 1)
    board.take(TOPICS.state("cam"), b"{", 1)
    assert board.ignored == 4

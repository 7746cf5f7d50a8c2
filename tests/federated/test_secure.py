"""SecAgg+ over Flower's Grid: the sum is right, and what would lay one site's update open is refused."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("flwr", reason="no Flower: secure aggregation is not proved")

from edge_sft.errors import NetworkError
from edge_sft.federated import secure
from edge_sft.federated.messages import packed

WEIGHTS = 3000
SPAN = 1.0
STEP = 2 * SPAN / 2**22  # what a weight is rounded to, up or down by chance


def updates(sites: int) -> dict[int, np.ndarray]:
    random = np.random.default_rng(3)
    return {11 + i: random.normal(0, 0.01, WEIGHTS).astype(np.float32) for i in range(sites)}


def grid_of(truth: dict[int, np.ndarray], folder: Path, before: Callable[[Any, int], None] | None = None) -> Any:
    """A grid over sites that answer securely; it remembers all that came to the coordinator."""
    from flwr.app import Context, Message
    from flwr.clientapp import ClientApp

    from edge_sft.federated.local_grid import LocalGrid

    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return secure.answer(
            message, context, lambda _: (truth[context.node_id], packed({"site": f"s{context.node_id}"}, {"loss": 0.5}))
        )

    class Watched(LocalGrid):
        def __init__(self) -> None:
            super().__init__(app, dict.fromkeys(truth, folder))
            self.seen: list[list[Message]] = []

        def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> Any:
            if before is not None:
                before(self, len(self.seen))
            self.seen.append([travelled(one) for one in super().send_and_receive(messages, timeout=timeout)])
            return self.seen[-1]

    return Watched()


def travelled(message: Any) -> Any:
    """A message as the network leaves it: in content-addressed pieces, of which equal ones are one."""
    from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
    from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

    if message.has_content():
        content = message.content
        pieces = {name: one.deflate() for name, one in get_all_nested_objects(content).items()}
        message.content = inflate_object_from_contents(content.object_id, pieces)
    return message


def asked(truth: dict[int, np.ndarray]) -> dict[int, Any]:
    return {node: packed({"run": "first", "round": 1}) for node in truth}


def run(grid: Any, truth: dict[int, np.ndarray]) -> secure.Summed:
    return secure.mean(grid, asked(truth), number=1, span=SPAN, timeout_s=5.0)


def masked(reply: Any) -> list[np.ndarray]:
    from flwr.common import bytes_to_ndarray
    from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key

    return [bytes_to_ndarray(row) for row in reply.content.config_records[RECORD_KEY_CONFIGS][Key.MASKED_PARAMETERS]]


@pytest.mark.parametrize("sites", [3, 4, 7])
def test_the_mean_is_the_plain_one_within_its_rounding(tmp_path: Path, sites: int) -> None:
    truth = updates(sites)
    found = run(grid_of(truth, tmp_path), truth)
    np.testing.assert_allclose(found.mean, np.mean(list(truth.values()), axis=0), atol=STEP)
    assert found.nodes == tuple(sorted(truth))
    assert found.said[11].config_records["config"]["site"] == "s11"
    assert found.said[11].metric_records["metrics"]["loss"] == 0.5


def test_the_coordinator_never_sees_one_update(tmp_path: Path) -> None:
    truth = updates(3)
    grid = grid_of(truth, tmp_path)
    run(grid, truth)
    assert [len(replies) for replies in grid.seen] == [3, 3, 3, 3]
    for reply in grid.seen[2]:
        row = masked(reply)[1]
        assert abs(np.corrcoef(row, truth[reply.metadata.src_node_id])[0, 1]) < 0.1
        assert row.std() == pytest.approx(2**32 / np.sqrt(12), rel=0.05)  # uniform over the modulus
        assert not any(record.keys() for record in reply.content.array_records.values())
    for replies in grid.seen:  # and no message carries it as it is
        for reply in replies:
            content = b"".join(bytes(str(record), "utf-8") for record in reply.content.values())
            assert truth[reply.metadata.src_node_id].tobytes()[:64] not in content


def test_it_is_the_masks_of_ours_that_both_sides_use(tmp_path: Path) -> None:
    """Were one side to take Flower's, the sum would be noise; were both, 32 bits would hide an update."""
    truth = updates(3)
    grid = grid_of(truth, tmp_path)
    run(grid, truth)
    for module in secure._HALVES:
        assert vars(__import__(module, fromlist=["x"]))["pseudo_rand_gen"] is secure.masks


def test_a_mask_depends_on_every_bit_of_its_seed() -> None:
    from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen

    seed = bytes(range(32))
    other = bytes(byte ^ 1 if i < 8 else byte for i, byte in enumerate(seed))  # equal when its words are XORed
    shapes: list[tuple[int, ...]] = [(4, 5), (), (0,), (1000,)]
    flowers = [pseudo_rand_gen(one, 2**32, shapes)[3] for one in (seed, other)]
    np.testing.assert_array_equal(*flowers)  # why it is replaced; when this fails, Flower has mended it
    ours = [secure.masks(one, 2**32, shapes) for one in (seed, other, seed)]
    assert [array.shape for array in ours[0]] == shapes
    assert np.abs(ours[0][3] - ours[1][3]).min() > 0
    np.testing.assert_array_equal(ours[0][3], ours[2][3])
    assert ours[0][3].min() >= 0
    assert ours[0][3].max() < 2**32
    assert ours[0][3].mean() == pytest.approx(2**31, rel=0.1)


def test_what_flower_lets_pass_is_what_is_replaced() -> None:
    """Private of Flower: whoever changes the version must look at the protocol again."""
    from importlib import import_module

    client, server = (import_module(name) for name in secure._HALVES)
    assert "pseudo_rand_gen(state.rd_seed, state.mod_range, dimensions_list)" in inspect.getsource(client)
    assert "pseudo_rand_gen(" in inspect.getsource(server)


def test_a_site_that_dies_in_the_middle_is_left_out(tmp_path: Path) -> None:
    truth = updates(5)
    grid = grid_of(truth, tmp_path, lambda grid, done: grid.disconnect(13) if done == 2 else None)
    found = run(grid, truth)
    assert found.nodes == (11, 12, 14, 15)
    alive = [row for node, row in truth.items() if node != 13]
    np.testing.assert_allclose(found.mean, np.mean(alive, axis=0), atol=STEP)


def test_of_three_none_may_die(tmp_path: Path) -> None:
    truth = updates(3)
    grid = grid_of(truth, tmp_path, lambda grid, done: grid.disconnect(13) if done == 2 else None)
    with pytest.raises(NetworkError, match="has 2 sites"):
        run(grid, truth)
    assert len(grid.seen) == 3  # nobody was asked to unmask the sum of two


def test_two_sites_are_too_few(tmp_path: Path) -> None:
    truth = updates(2)
    grid = grid_of(truth, tmp_path)
    with pytest.raises(NetworkError, match="needs 3 to 1024"):
        run(grid, truth)
    assert grid.seen == []


def dishonest(change: Callable[[Any, Any], None], stage: str) -> Callable[[Any, Any], Any]:
    """Have the coordinator change what it asks in a stage."""
    from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key

    def send(plain: Callable[..., Any], messages: Any) -> Any:
        changed = list(messages)
        for message in changed:
            record = message.content.config_records[RECORD_KEY_CONFIGS]
            if record[Key.STAGE] == stage:
                change(record, Key)
        return plain(changed)

    return send


def both_halves(record: Any, key: Any) -> None:
    record[key.DEAD_NODE_ID_LIST] = [11]


def of_two(record: Any, key: Any) -> None:
    record[key.ACTIVE_NODE_ID_LIST] = list(record[key.ACTIVE_NODE_ID_LIST])[:2]


def low_threshold(record: Any, key: Any) -> None:
    record[key.THRESHOLD] = 1


def alone(record: Any, key: Any) -> None:
    record[key.SAMPLE_NUMBER] = 1


def small_modulus(record: Any, key: Any) -> None:
    record[key.MOD_RANGE] = 2**30


def few_keys(record: Any, key: Any) -> None:
    for name in [name for name in record if name != key.STAGE][:1]:
        del record[name]


@pytest.mark.parametrize(
    ("change", "stage", "words"),
    [
        (both_halves, "unmask", "dead and alive at once"),
        (of_two, "unmask", "too few sites"),
        (low_threshold, "setup", "could be told apart"),
        (alone, "setup", "could be told apart"),
        (small_modulus, "setup", "not those that this version"),
        (few_keys, "share_keys", "fewer than 3 sites"),
    ],
)
def test_a_curious_question_is_refused_by_the_site(
    tmp_path: Path, change: Callable[[Any, Any], None], stage: str, words: str
) -> None:
    truth = updates(3)
    grid = grid_of(truth, tmp_path)
    plain, send = grid.send_and_receive, dishonest(change, stage)
    grid.send_and_receive = lambda messages, timeout=None: send(plain, messages)
    with pytest.raises(NetworkError, match="secure round 1"):
        run(grid, truth)
    said = [reply.error.reason for replies in grid.seen for reply in replies if reply.has_error()]
    assert said
    assert all(words in one for one in said), said


def test_what_is_no_secure_message_is_refused(tmp_path: Path) -> None:
    from flwr.app import Message

    truth = updates(3)
    grid = grid_of(truth, tmp_path)
    (reply,) = grid.send_and_receive([Message(packed({"a": 1}), 11, "train", group_id="1")])
    assert "no part of a secure round" in reply.error.reason

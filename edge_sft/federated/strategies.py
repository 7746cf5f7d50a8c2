"""How updates become one: Flower's own strategies, given the sites' full weights in the order of their names.

Flower's classes also sample nodes, wait and log; that is not asked of them here (see `rounds`). They get float64, so
that sums are made in it, and the same updates in the same order give the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edge_sft.errors import DataError
from edge_sft.federated.learner import Arrays, Part
from edge_sft.federated.vetting import Update
from edge_sft.federated_section import ADAM_RATE, FederatedSection

if TYPE_CHECKING:
    from flwr.app import Message
    from flwr.serverapp.strategy import FedAvg

Wide = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Memory:
    """What a strategy must know of the rounds before: FedAdam's first and second moments, float64 by weight."""

    first: Wide = field(default_factory=dict)
    second: Wide = field(default_factory=dict)


def average(
    section: FederatedSection,
    round_number: int,
    current: Arrays,
    updates: list[Update],
    parts: Mapping[str, Part],
    memory: Memory,
) -> tuple[Wide, Memory]:
    """Make new weights of a round's updates.

    Args:
        section: Strategy and its options.
        round_number: From 1.
        current: The weights that the round began with.
        updates: What was let in, one a site.
        parts: What each weight is: FedAdam's step would push a variance of batch normalisation below zero, so that
            normalisation is averaged plainly.
        memory: What this function returned a round ago.

    Raises:
        DataError: The strategy cannot make anything of so many updates.
    """
    ordered = sorted(updates, key=lambda update: update.site)
    plain = [name for name in current if section.strategy == "fedadam" and parts.get(name) == "norm"]
    rest = [name for name in current if name not in set(plain)]
    made: Wide = {}
    if plain:
        made |= _aggregated(_make("fedavg", section), round_number, plain, current, ordered, section)
    strategy = _make(section.strategy, section)
    if section.strategy == "fedadam":
        adam: Any = strategy
        adam.current_arrays = {name: current[name].astype(np.float64) for name in rest}
        adam.m_t, adam.v_t = dict(memory.first) or None, dict(memory.second) or None
        if rest:
            made |= _aggregated(strategy, round_number, rest, current, ordered, section)
        return made, Memory(dict(adam.m_t or {}), dict(adam.v_t or {}))
    made |= _aggregated(strategy, round_number, rest, current, ordered, section)
    return made, memory


def _make(name: str, section: FederatedSection) -> FedAvg:
    from flwr.serverapp import strategy as flower

    if name == "fedprox":
        return flower.FedProx(proximal_mu=section.mu)
    if name == "fedadam":
        return flower.FedAdam(eta=ADAM_RATE if section.server_rate is None else section.server_rate)
    if name == "fedmedian":
        return flower.FedMedian()
    if name == "trimmed":
        return flower.FedTrimmedAvg(beta=section.trim)
    if name == "krum":
        return flower.Krum(num_malicious_nodes=section.malicious)
    return flower.FedAvg()


def _aggregated(
    strategy: FedAvg,
    round_number: int,
    names: list[str],
    current: Arrays,
    updates: list[Update],
    section: FederatedSection,
) -> Wide:
    from flwr.serverapp.exception import AggregationError, InconsistentMessageReplies

    replies = [_reply(names, current, update, 1 if section.equal_weights else update.samples) for update in updates]
    try:
        arrays, _ = strategy.aggregate_train(round_number, replies)
    except (AggregationError, InconsistentMessageReplies, ValueError) as error:
        raise DataError(f"{len(updates)} updates", f"cannot be averaged by {section.strategy} ({error})") from error
    if arrays is None:
        raise DataError(f"{len(updates)} updates", f"{section.strategy} made nothing of them")
    return {name: arrays[name].numpy().astype(np.float64) for name in names}


def _reply(names: list[str], current: Arrays, update: Update, weight: int) -> Message:
    from flwr.app import Array, ArrayRecord, Message, Metadata, MetricRecord, RecordDict

    wide = {name: current[name].astype(np.float64) + update.delta[name].astype(np.float64) for name in names}
    content = RecordDict(
        {
            "arrays": ArrayRecord({name: Array(array) for name, array in wide.items()}),
            "metrics": MetricRecord({"num-examples": weight, "loss": update.loss}),
        }
    )
    metadata = Metadata(
        run_id=0, message_id="", src_node_id=0, dst_node_id=0, reply_to_message_id="", group_id="", created_at=0.0,
        ttl=1.0, message_type="train",
    )  # fmt: skip
    of: Any = Message  # its signature does not show `metadata`; replies to a message sent would do, were there one
    made: Message = of(content=content, metadata=metadata)
    return made

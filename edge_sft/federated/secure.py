"""SecAgg+ (experimental): the coordinator learns the mean of the sites' updates and no single one. The protocol.

The protocol (Bell et al. 2020) is Flower's, which has it for its legacy messages only; what is private of Flower for
it is here (`secure_site` and `secure_rounds` carry it over a run's messages), with two of its holes closed, which were
found by trying them, and a fault mended:

- Its masks come from 32 bits, whatever the seed, which is few enough to try them all. Here both sides take a cipher.
- Its sites give out both halves of a secret: a coordinator that calls one site dead and alive at once unmasks it.
  Here a site gives one half, and the threshold is a majority, so that two groups of sites do not give one each.
- It asks for shares of sites that were gone before they handed out any, and the round is lost. Here they are forgotten.

What stays open: the coordinator relays the sites' public keys, so one that forges them reads along. It must be curious
but not lie. Rounding is random, so a repeated round is not the same to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from importlib import import_module
from math import prod
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_sft.errors import NetworkError
from edge_sft.federated.outward import Sayable
from edge_sft.federated_privacy_section import SECAGG_SITES

if TYPE_CHECKING:
    from flwr.app import ConfigRecord, Context, Message, RecordDict

Learn = Callable[["Message"], tuple[NDArray[np.float32], "RecordDict"]]

_MODULUS: Final = 1 << 32
_LEVELS: Final = 1 << 22  # of a weight's range; times 1024 sites it fills the modulus
_MASKED: Final = "masked"
_MOST_SITES: Final = _MODULUS // _LEVELS
_HALVES: Final = (
    "flwr.client.mod.secure_aggregation.secaggplus_mod",
    "flwr.server.workflow.secure_aggregation.secaggplus_workflow",
)
_STAGES: Final = ("setup_stage", "share_keys_stage", "collect_masked_vectors_stage", "unmask_stage")
SETUP, SHARES, MASKED, OPENING = STEPS = ("setup", "share_keys", "collect_masked_vectors", "unmask")


class Asks(Protocol):
    """Of Flower's Grid, all that the workflow needs."""

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send messages; return the answers that came in time."""
        ...


@dataclass(frozen=True)
class Summed:
    """What a secure round came to.

    Attributes:
        mean: Of the updates of ``nodes``, float64 [weights].
        nodes: Whose updates are in it.
        said: What else each of them answered, openly.
    """

    mean: NDArray[np.float64]
    nodes: tuple[int, ...]
    said: dict[int, RecordDict]


def majority(sites: int) -> int:
    """Return how many sites must give their share of a secret: more than half, so that no two halves are both told."""
    return sites // 2 + 1


def answer(message: Message, context: Context, learn: Learn) -> Message:
    """Answer one of the four messages of a secure round, at the site.

    Args:
        message: Flower's, of type ``train``.
        context: Flower's; it keeps the site's keys between the messages.
        learn: Called for the third message: returns the update as one row, and what to say openly beside it.

    Raises:
        Sayable: The message asks for what would lay an update open.
    """
    from flwr.app import Message
    from flwr.client.mod import secaggplus_mod
    from flwr.common import Code, FitRes, Status, ndarrays_to_parameters
    from flwr.compat.common import recorddict_compat

    def masked(asked: Message, _: Context) -> Message:
        update, said = learn(asked)
        row = ndarrays_to_parameters([np.asarray(update, np.float32)])
        content = recorddict_compat.fitres_to_recorddict(FitRes(Status(Code.OK, ""), row, 1, {}), False)
        for name, record in said.items():
            content[name] = record
        return Message(content, reply_to=asked)

    _strengthen()
    _guard(message, context)
    reply = secaggplus_mod(message, context, masked)
    _lighten(reply.content)
    return reply


def mean(
    grid: Asks,
    asked: Mapping[int, RecordDict],
    *,
    number: int,
    span: float,
    timeout_s: float,
    least: int = SECAGG_SITES,
) -> Summed:
    """Run a secure round, at the coordinator.

    Args:
        grid: Flower's, or what asks in its place.
        asked: What to send with the third message, by node.
        number: The round.
        span: The largest change of a weight; larger ones are cut there.
        timeout_s: For each of the four exchanges.
        least: So many sites' updates must be in, else the sum is not opened.

    Raises:
        NetworkError: Too few sites, at the beginning or by the end, or an answer that fits nothing.
    """
    _strengthen()
    if not SECAGG_SITES <= len(asked) <= _MOST_SITES:
        raise _too_few(number, len(asked))
    from flwr.server.workflow.secure_aggregation.secaggplus_workflow import WorkflowState

    strategy = _Mean(tuple(sorted(asked)))
    context, watched, state = _legacy(strategy, number), _Watched(grid), WorkflowState()
    flow = _flow(len(asked), span, timeout_s)
    for stage in _STAGES:
        try:
            enough = getattr(flow, stage)(watched, context, state)
        except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
            what = f"cannot be reckoned: an answer does not fit ({type(error).__name__})"
            raise NetworkError(f"the secure round {number}", what, "The round is begun anew.") from error
        if not enough:
            raise _too_few(number, len(state.active_node_ids))
        if stage in _STAGES[:2]:
            _forget_the_gone(state)
        if stage == _STAGES[0]:
            state.nid_to_fitins = dict(asked)  # what Flower's strategies would send instead
        if stage == _STAGES[2]:
            said = {reply.metadata.src_node_id: reply.content for reply in watched.last if not reply.has_error()}
            if len(said) < max(SECAGG_SITES, least):
                raise _too_few(number, len(said))
    return Summed(strategy.found[0].astype(np.float64), tuple(sorted(said)), said)


def _flow(sites: int, span: float, timeout_s: float) -> Any:
    from flwr.server.workflow import SecAggPlusWorkflow

    return SecAggPlusWorkflow(
        sites,
        majority(sites),
        max_weight=1.0,  # each site counts once
        clipping_range=span,
        quantization_range=_LEVELS,
        modulus_range=_MODULUS,
        timeout=timeout_s,
    )


def stage_of(content: RecordDict) -> str:
    """Return which of `STEPS` a message asks for; "" where it is none of a secure round's."""
    from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key

    asked = content.config_records.get(RECORD_KEY_CONFIGS)
    found = None if asked is None else asked.get(Key.STAGE)
    return found if isinstance(found, str) and found in STEPS else ""


def speaks(content: RecordDict) -> bool:
    """Tell whether a message is part of the protocol."""
    from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS

    return RECORD_KEY_CONFIGS in content.config_records


def told(content: RecordDict) -> dict[str, Any]:
    """Return what an answer says for the protocol: keys, shares or masked numbers; empty where it says nothing."""
    from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS

    return dict(content.config_records.get(RECORD_KEY_CONFIGS, {}))


def masked_row(content: RecordDict) -> NDArray[np.uint32] | None:
    """Return the masked numbers of an answer as they travel: how much the site counts, then one a weight."""
    record = content.array_records.get(_MASKED)
    found = None if record is None or list(record) != [_MASKED] else record[_MASKED].numpy()
    return found if found is not None and found.dtype == np.uint32 and found.ndim == 1 else None


def fits(content: RecordDict, weights: int) -> bool:
    """Tell whether an answer's masked numbers are as many as the model's, and the one that counts the site."""
    try:
        row = masked_row(content)
    except (ValueError, TypeError, EOFError):
        return False
    return row is not None and len(row) == 1 + weights


def _lighten(content: RecordDict) -> None:
    """Move the masked numbers from the protocol's words, 8 bytes each, into an array of 4 bytes each.

    Flower cuts arrays into pieces on the way and nothing else, and a proxy has its limits.
    """
    from flwr.app import Array, ArrayRecord
    from flwr.common import bytes_to_ndarray
    from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key

    rows: Any = content.config_records[RECORD_KEY_CONFIGS].pop(Key.MASKED_PARAMETERS, None)
    if rows is not None:  # modulo 2³² they are all below it
        row = np.concatenate([bytes_to_ndarray(one).ravel() for one in rows]).astype(np.uint32)
        content[_MASKED] = ArrayRecord({_MASKED: Array(row)})


def _restore(content: RecordDict) -> None:
    """Put the masked numbers where Flower's half of the protocol looks for them."""
    from flwr.app import ConfigRecord
    from flwr.common import ndarray_to_bytes
    from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key

    row = masked_row(content)
    if row is not None:
        wide = row.astype(np.int64)
        rows = [ndarray_to_bytes(wide[:1]), ndarray_to_bytes(wide[1:])]
        # a new record: of two that were equal when they were sent, Flower makes one object
        content[RECORD_KEY_CONFIGS] = ConfigRecord({**told(content), Key.MASKED_PARAMETERS: rows})
        del content[_MASKED]


def opens_for(content: RecordDict) -> list[int]:
    """Return whose sum a message asks to open, sorted."""
    from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key

    return sorted(_list(content.config_records[RECORD_KEY_CONFIGS], Key.ACTIVE_NODE_ID_LIST))


def _forget_the_gone(state: Any) -> None:
    """Leave out who was gone before it masked anything: nobody has a share of its keys, and no mask is made of them."""
    here = set(state.active_node_ids)
    state.sampled_node_ids = here
    state.nid_to_neighbours = {node: others & here for node, others in state.nid_to_neighbours.items() if node in here}


def _too_few(number: int, sites: int) -> NetworkError:
    return NetworkError(
        f"the secure round {number}",
        f"has {sites} sites; secure aggregation needs {SECAGG_SITES} to {_MOST_SITES}, and a majority until its end",
        "Mend the sites that are missing and start the run again.",
    )


@dataclass
class _Mean:
    """What the workflow wants of a strategy: whom to ask, and where to put the mean."""

    nodes: tuple[int, ...]
    found: list[NDArray[Any]] = field(default_factory=list)

    def num_available(self) -> int:
        return len(self.nodes)

    def configure_fit(self, number: int, parameters: Any, manager: Any) -> list[tuple[Any, Any]]:
        from flwr.common import FitIns

        return [(_Node(node), FitIns(parameters, {})) for node in self.nodes]

    def aggregate_fit(self, number: int, results: list[Any], failures: list[Any]) -> tuple[None, dict[str, Any]]:
        from flwr.common import parameters_to_ndarrays

        self.found = parameters_to_ndarrays(results[0][1].parameters)  # the workflow gave every result the mean
        return None, {}


@dataclass(frozen=True)
class _Node:
    node_id: int


@dataclass
class _Watched:
    """A grid that remembers the last answers: the workflow keeps only what its legacy strategies know.

    It also turns masked numbers back into the form that the workflow reads.
    """

    grid: Asks
    last: list[Message] = field(default_factory=list)

    def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> list[Message]:
        self.last = list(self.grid.send_and_receive(messages, timeout=timeout))
        for reply in self.last:
            if not reply.has_error():
                _restore(reply.content)
        return self.last


def _legacy(strategy: _Mean, number: int) -> Any:
    from flwr.app import ArrayRecord, ConfigRecord, Context, RecordDict
    from flwr.server import LegacyContext
    from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD, Key

    plain = Context(run_id=0, node_id=0, node_config={}, state=RecordDict(), run_config={})
    context = LegacyContext(plain, strategy=strategy, client_manager=strategy)  # type: ignore[arg-type]
    context.state.config_records[MAIN_CONFIGS_RECORD] = ConfigRecord({Key.CURRENT_ROUND: number})
    context.state.array_records[MAIN_PARAMS_RECORD] = ArrayRecord()
    return context


def _guard(message: Message, context: Context) -> None:
    """Refuse what an honest coordinator never asks. Raises Sayable."""
    from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, RECORD_KEY_STATE, Key, Stage

    asked = message.content.config_records.get(RECORD_KEY_CONFIGS)
    if asked is None or Key.STAGE not in asked:
        raise _refused("it is no part of a secure round")
    if asked[Key.STAGE] == Stage.SETUP:
        _guard_setup(asked)
    if asked[Key.STAGE] == Stage.SHARE_KEYS and len(asked) - 1 < SECAGG_SITES:
        raise _refused(f"fewer than {SECAGG_SITES} sites take part")
    if asked[Key.STAGE] == Stage.UNMASK:
        held: Mapping[str, Any] = context.state.config_records.get(RECORD_KEY_STATE, {})
        alive, dead = set(_list(asked, Key.ACTIVE_NODE_ID_LIST)), set(_list(asked, Key.DEAD_NODE_ID_LIST))
        if alive & dead:
            raise _refused("a site is called dead and alive at once, which would lay its update open")
        if len(alive) < max(SECAGG_SITES, int(held.get("threshold", 0))) or context.node_id not in alive:
            raise _refused("the sum would be of too few sites, or without this one")


def _guard_setup(asked: ConfigRecord) -> None:
    from flwr.common.secure_aggregation.secaggplus_constants import Key

    sites, shares, least = (asked.get(key) for key in (Key.SAMPLE_NUMBER, Key.SHARE_NUMBER, Key.THRESHOLD))
    if not (isinstance(sites, int) and isinstance(shares, int) and isinstance(least, int)):
        raise _refused("it does not say how many sites take part")
    if sites < SECAGG_SITES or shares != sites or least < majority(sites):
        raise _refused(f"{sites} sites with {least} of {shares} shares could be told apart")
    if asked.get(Key.MOD_RANGE) != _MODULUS or asked.get(Key.TARGET_RANGE) != _LEVELS or sites > _MOST_SITES:
        raise _refused("its numbers are not those that this version of edge-sft masks")


def _list(asked: ConfigRecord, key: str) -> list[int]:
    found = asked.get(key)
    return [one for one in found if isinstance(one, int)] if isinstance(found, list) else []


def _refused(why: str) -> Sayable:
    return Sayable("the coordinator's secure round", f"is refused: {why}", "Ask whoever runs the coordinator.")


def _strengthen() -> None:
    """Have Flower's two halves of the protocol take masks from the whole seed."""
    for module in _HALVES:  # by name: the package has a function of the first one's name
        vars(import_module(module))["pseudo_rand_gen"] = masks


def masks(seed: bytes, modulus: int, shapes: list[tuple[int, ...]]) -> list[NDArray[np.int64]]:
    """Return uniform numbers below 2³² in arrays of these shapes, from a ChaCha20 stream that a seed keys."""
    from cryptography.hazmat.primitives.ciphers import Cipher
    from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

    if modulus != _MODULUS:
        raise _refused(f"it masks modulo {modulus}")
    sizes = [prod(shape) for shape in shapes]
    stream = Cipher(ChaCha20(sha256(seed).digest(), bytes(16)), mode=None).encryptor().update(bytes(4 * sum(sizes)))
    numbers = np.frombuffer(stream, dtype="<u4").astype(np.int64)
    ends = np.cumsum(sizes)
    return [numbers[end - size : end].reshape(shape) for end, size, shape in zip(ends, sizes, shapes, strict=True)]

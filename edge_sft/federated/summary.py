"""result/federated.json: a run in one file, made from its record alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from edge_sft import __version__
from edge_sft.federated.run_store import RunStore, State
from edge_sft.federated_section import FederatedSection

_CASES: Final = ("alone", "global", "personal")
_SCORES: Final = ("balanced_accuracy", "rmse", "auroc")  # what sites are compared by: each task has one of them


def summarise(store: RunStore, section: FederatedSection, state: State) -> dict[str, Any]:
    """Return what federated.json holds.

    ``bytes.plain`` is what Flower's plain FedAvg sends for the same model, sites and rounds: the float32 weights to
    each site to train and once more to evaluate, and back.
    """
    rounds, finals = store.lines("round"), store.lines("final")
    lines = [*rounds, *store.lines("repeat")]
    names = sorted({name for line in lines for name in line["sites"]} | {line["site"] for line in finals})
    size = 4 * sum(array.size for array in state.weights.values())
    sites = {name: _site(name, rounds, lines, finals) for name in names}
    answered = sum(row["rounds_ok"] for row in sites.values())
    return {
        "version": 1,
        "run": store.run,
        "edge_sft": __version__,
        "app_sha256": rounds[-1]["app_sha256"] if rounds else "",
        "federated": section.model_dump(mode="json"),
        "status": "finished",
        "score": _score(sites.values()),
        "rounds": len(rounds),
        "global_sha256": state.base,
        "compatible": state.facts,
        "weights": {"tensors": len(state.weights), "bytes": size},
        "sites": sites,
        "bytes": {
            "up": sum(row["bytes_up"] for row in sites.values()),
            "down": sum(row["bytes_down"] for row in sites.values()),
            "plain": 3 * size * answered,
        },
    }


def _site(
    name: str, rounds: list[dict[str, Any]], lines: list[dict[str, Any]], finals: list[dict[str, Any]]
) -> dict[str, Any]:
    rows: list[Mapping[str, Any]] = [line["sites"].get(name, {}) for line in lines]
    last: Mapping[str, Any] = next((line for line in reversed(finals) if line["site"] == name), {})
    metrics: Mapping[str, float] = last.get("metrics", {})
    return {
        "samples": last.get("samples", {}),
        "fingerprint": last.get("fingerprint") or next((r["fingerprint"] for r in rows if r.get("fingerprint")), ""),
        "rounds_ok": sum(line["sites"].get(name, {}).get("status") == "ok" for line in rounds),
        "finished": bool(last),
        "chosen": last.get("chosen", ""),
        "bytes_up": sum(row.get("bytes_up", 0) for row in [*rows, last]),
        "bytes_down": sum(row.get("bytes_down", 0) for row in [*rows, last]),
        "seconds": round(sum(row.get("seconds", 0.0) for row in [*rows, last]), 3),
        **{case: _case(metrics, case) for case in _CASES},
        "paired": _paired(metrics),
    }


def _score(sites: Iterable[Mapping[str, Any]]) -> str:
    """Return the name of the number that sites are compared by; "" where none told one."""
    there = {name for row in sites for split in row["personal"].values() for name in split}
    return next((name for name in _SCORES if name in there), "")


def _case(metrics: Mapping[str, float], case: str) -> dict[str, dict[str, float]]:
    """Return the numbers of a side by split; what has other names, as a site could send, is passed over."""
    found: dict[str, dict[str, float]] = {}
    for key, value in metrics.items():
        head, _, rest = key.partition("/")
        split, _, name = rest.partition("/")
        if head == case and name:
            found.setdefault(split, {})[name] = value
    return found


def _paired(metrics: Mapping[str, float]) -> dict[str, dict[str, dict[str, float]]]:
    """Return what sides differ by, by pair and split: difference, low and high."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for pair, numbers in _case(metrics, "paired").items():
        for key, value in numbers.items():
            split, _, name = key.partition("/")
            if name:
                found.setdefault(pair, {}).setdefault(split, {})[name] = value
    return found

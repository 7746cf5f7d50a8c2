"""How the run was set up, what it promises of privacy, and whether its record can be trusted."""

from __future__ import annotations

from typing import Any

from edge_sft.federated.report_facts import Run
from edge_sft.federated.report_words import COMPRESSIONS, SHARES, STRATEGIES, option, privacy_words
from edge_sft.report.markup import Child, Html, el
from edge_sft.report.page import facts, mono, section, table
from edge_sft.report.wording import count, duration, listed


def setup(run: Run) -> Html:
    """The recipe's federated options in words."""
    given: dict[str, Any] = run.options
    every = given.get("evaluate_every", 1)
    pairs: list[tuple[str, Child]] = [
        ("Strategy", option(run, "strategy", STRATEGIES, "fedavg")),
        ("Shared", option(run, "share", SHARES, "all")),
        ("Compression", option(run, "compression", COMPRESSIONS, "int8")),
        ("Judged", "every round" if every == 1 else "never" if every == 0 else f"every {every} rounds"),
        ("Needed in a round", count(_number(given.get("quorum", 2)), "site")),
        ("Waited for", f"at most {duration(_number(given.get('deadline_s', 1800)))}"),
        ("Privacy", privacy_words(run)),
    ]
    return section("How it was set up", None, facts(pairs), name="setup")


def origin(run: Run) -> Html:
    """The record: its chain, the app, the versions, the fingerprints, the weights."""
    lines = count(len(run.chain.records), "line")
    last = next((one for one in reversed(run.attempts) if one.done), None)
    prints = {
        site: next((one.sites[site].fingerprint for one in reversed(run.attempts) if site in one.sites), "")
        for site in run.sites
    }
    pairs: list[tuple[str, Child]] = [
        ("Record", f"verified: {lines}, each follows from the one before" if run.chain.holds else run.chain.broken),
        ("Its last line (SHA-256)", mono(run.chain.head or "–")),
        ("Global weights (SHA-256)", mono(last.weights if last else "–")),
        ("Flower app (SHA-256)", [mono(listed(list(run.apps)) or "–")]),
        ("edge-sft", listed(list(run.versions)) or "–"),
    ]
    rows: list[list[Child]] = [[el("div", site, class_="name"), mono(found)] for site, found in prints.items() if found]
    data = table(["site", "its data (SHA-256)"], rows) if rows else None
    told = (
        "A chain shows a change to the record only to somebody who kept a later digest: each site's ledger keeps what "
        "it was sent, and edge-sft federate verify follows the chains."
    )
    return section("Where it comes from", told, facts(pairs), data, name="origin")


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else 0.0

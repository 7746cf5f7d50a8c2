"""What a recipe's federated options mean, in words for the page."""

from __future__ import annotations

import math
from typing import Any

from pydantic import ValidationError

from edge_sft.federated.accounting import Promise, promise
from edge_sft.federated.report_facts import Run, Taking
from edge_sft.federated_privacy_section import PrivacySection

STRATEGIES = {
    "fedavg": "FedAvg: the mean of the sites' updates",
    "fedprox": "FedProx: the mean, and each site is held near the common weights while it learns",
    "fedadam": "FedAdam: the mean, taken as a gradient by Adam at the coordinator",
    "fedmedian": "FedMedian: the median of the sites, weight by weight",
    "trimmed": "Trimmed mean: the mean without the largest and smallest, weight by weight",
    "krum": "Krum: the one update that lies nearest to the others",
}
SHARES = {
    "all": "all weights are shared",
    "no-norm": "all weights but the normalisation layers', which stay at each site (FedBN)",
    "head": "only the last layer is shared; the rest stays as pre-trained, or at each site",
    "bias": "only biases and normalisation are shared",
    "lora": "only the low-rank adapters are shared",
}
COMPRESSIONS = {
    "none": "updates travel as float32",
    "bf16": "updates travel as bfloat16, two bytes a weight; what rounding lost is sent a round later",
    "int8": "updates travel as INT8, one byte a weight; what rounding lost is sent a round later",
}
TAKINGS: dict[Taking, tuple[str, str]] = {  # words, CSS variable
    "in": ("in", "good"),
    "late": ("late", "overkill"),
    "out": ("left out", "escape"),
    "lost": ("no answer", "bar"),
    "absent": ("–", "track"),
}


def privacy_section(run: Run) -> PrivacySection | None:
    """Return the recipe's privacy, or None where it cannot be read."""
    try:
        return PrivacySection.model_validate(run.options.get("privacy") or {})
    except ValidationError:
        return None


def promised(run: Run) -> Promise | None:
    """Return what differential privacy promises after the attempts that were made: repeated rounds count."""
    section = privacy_section(run)
    heard = [one for one in run.attempts if any(site.taking in ("in", "out", "late") for site in one.sites.values())]
    return None if section is None else promise(section, rounds=len(heard), sites=len(run.sites))


def privacy_words(run: Run) -> str:
    """Say what the coordinator and the others could learn about a site, in sentences."""
    section = privacy_section(run)
    if section is None:
        return "The recipe's privacy cannot be read."
    if section.kind == "none":
        return (
            "None beyond keeping the data at home: the coordinator sees each site's update as it is, and an update can "
            "betray something of the data it was learnt from."
        )
    if section.kind == "secagg":
        return (
            "Secure aggregation (SecAgg+, experimental): the coordinator sees the sum of the updates, not a single "
            "one. It does not hide what the sum itself tells."
        )
    told = promised(run)
    where = "each site before sending" if section.at == "site" else "the coordinator, to the mean"
    epsilon = "∞" if told is None or math.isinf(told.epsilon) else f"{told.epsilon:.3g}"
    return (
        f"Differential privacy of a whole site: each update is cut to length {section.clip:g}, noise of "
        f"{section.noise:g} times that is added by {where}. So far ε = {epsilon} at δ = {section.delta:g}, against "
        f"{told.against if told else 'nobody'}. Counts, losses and scores that sites report are not covered."
    )


def size(number: float) -> str:
    """Bytes as a plant reads them: 812 B, 4.1 MB."""
    for unit, words in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if number >= 0.9995 * unit:
            scaled = number / unit
            return f"{scaled:.0f}\u00a0{words}" if scaled >= 99.5 else f"{scaled:.3g}\u00a0{words}"
    return f"{number:.0f}\u00a0B"


def option(run: Run, name: str, words: dict[str, str], default: str) -> str:
    """Say an option's meaning; one that is not known is shown as it is written."""
    chosen: Any = run.options.get(name, default)
    return words.get(str(chosen), str(chosen))

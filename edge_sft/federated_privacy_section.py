"""What a recipe's ``[federated.privacy]`` may ask for, and which combinations would only look private."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

AVERAGES = frozenset({"fedavg", "fedprox"})  # whose step is the plain mean: one site moves it by clip / sites
SECAGG_SITES = 3  # with two, each site knows the other's update: the sum minus its own


class PrivacySection(BaseModel):
    """How a site's update is hidden. Without the table, the coordinator sees each site's update as it is.

    Attributes:
        kind: ``dp`` clips each site's update and adds Gaussian noise; ``secagg`` lets the coordinator see only the sum.
        clip: dp: the longest that one site's update (all shared weights together, L2) may be. A run without privacy
            shows in its report how long updates are.
        noise: dp: standard deviation of the noise on the sum of updates, in units of ``clip``.
        at: dp: who adds the noise. ``coordinator``: it sees the clipped updates and must be trusted; the weights that
            it hands out are protected. ``site``: each site adds the whole of it before sending, nobody need be
            trusted, and the average is noisier by the square root of the number of sites.
        delta: dp: the probability with which the promised ε may fail; far below one over the number of sites.
        range: secagg: the largest change of a single weight that is represented; larger ones are cut.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["none", "dp", "secagg"] = "none"
    clip: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    noise: float | None = Field(default=None, gt=0, le=1000, allow_inf_nan=False)
    at: Literal["site", "coordinator"] = "coordinator"
    delta: float = Field(default=1e-5, gt=0, lt=0.1)
    range: float = Field(default=1.0, gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _keys_of_the_kind(self) -> PrivacySection:
        belongs = {"none": {"kind"}, "dp": {"kind", "clip", "noise", "at", "delta"}, "secagg": {"kind", "range"}}
        fields = type(self).model_fields  # what equals its default may be there: a written-out section is read again
        strange = sorted(
            name for name in self.model_fields_set - belongs[self.kind] if getattr(self, name) != fields[name].default
        )
        if strange:
            many = "mean" if len(strange) > 1 else "means"
            raise ValueError(f'{", ".join(strange)} {many} nothing with kind = "{self.kind}"; remove it')
        missing = [name for name in ("clip", "noise") if self.kind == "dp" and getattr(self, name) is None]
        if missing:
            raise ValueError(
                f'kind = "dp" needs {" and ".join(missing)}: the length that an update is cut to (a run without '
                "privacy shows how long they are) and the noise in units of it (1 is strong, 0.1 hardly any)"
            )
        return self


def conflicts(
    privacy: PrivacySection, *, strategy: str, compression: str, quorum: int, weighted: bool = False
) -> list[str]:
    """Return why this recipe's privacy would not hold, each with what would; empty = nothing against it.

    Args:
        privacy: The recipe's section.
        strategy: ``[federated] strategy``.
        compression: ``[federated] compression``.
        quorum: How many sites' updates a round needs.
        weighted: Whether sites count by their number of samples instead of equally.
    """
    if privacy.kind == "none":
        return []
    return (_dp if privacy.kind == "dp" else _secagg)(strategy, compression, quorum, weighted)


def _dp(strategy: str, compression: str, quorum: int, weighted: bool) -> list[str]:
    found = []
    if strategy not in AVERAGES:
        found.append(
            f'strategy = "{strategy}" with differential privacy: the noise is reckoned for the plain mean of equal '
            'sites, which this is not; take strategy = "fedavg"'
        )
    if compression != "none":
        found.append(
            f'compression = "{compression}" with differential privacy: what rounding left over is sent a round later, '
            'past the clip; take compression = "none"'
        )
    if weighted:
        found.append(
            "sites counted by their samples with differential privacy: the largest site then exceeds what the noise "
            "hides; sites must count equally"
        )
    if quorum < 2:
        found.append("quorum = 1 with differential privacy: the average of one site is that site; take at least 2")
    return found


def _secagg(strategy: str, compression: str, quorum: int, weighted: bool) -> list[str]:
    found = []
    if strategy not in AVERAGES:
        found.append(
            f'strategy = "{strategy}" with secure aggregation: it needs each site\'s update, and only the sum can be '
            'seen; take strategy = "fedavg"'
        )
    if compression != "none":
        found.append(
            f'compression = "{compression}" with secure aggregation: masked numbers cannot be compressed; take '
            'compression = "none" (it sends 4 bytes a weight anyway)'
        )
    if weighted:
        found.append("sites counted by their samples with secure aggregation: sites must count equally")
    if quorum < SECAGG_SITES:
        found.append(
            f"quorum = {quorum} with secure aggregation: from a sum of two, each site can take away its own; take "
            f"quorum = {SECAGG_SITES} or more"
        )
    return found

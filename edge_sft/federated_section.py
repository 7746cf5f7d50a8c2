"""``[federated]`` of both kinds of recipe: how plants learn together. Central training reads none of it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from edge_sft.federated_privacy_section import PrivacySection, conflicts

Normaliser = Literal["shared", "local"]
Share = Literal["all", "no-norm", "head", "bias"]
Compression = Literal["none", "bf16", "int8"]
Strategy = Literal["fedavg", "fedprox", "fedadam", "fedmedian", "trimmed", "krum"]

PROXIMAL = 0.01  # FedProx's usual small μ (Li et al. 2020 searched 0.001 to 1)
_UNSEEN = "secure aggregation: the length of a single update cannot be seen, and none can be left out for it"
ADAM_RATE = 0.01  # changes of a weight near 1e-3, as fine-tuning makes them, come out about as long as they went in


class FederatedSection(BaseModel):
    """How plants learn together. Every default is meant to be left as it is.

    Attributes:
        rounds: How often the sites' weights are averaged; 0 = what suits the task (`edge_sft.federated.settings`).
        steps: Optimiser steps of a site in a round; None = what it would do alone, divided by ``rounds``.
        strategy: How updates become one: the mean, weighted by samples (fedavg; fedprox also pulls each site towards
            the average; fedadam takes the mean as a gradient), or what bears bad sites: fedmedian, trimmed, krum.
        proximal: fedprox: how strongly; None = 0.01.
        server_rate: fedadam: its learning rate; None = 0.01.
        trim: trimmed: the share of sites left out at either end, weight by weight.
        malicious: krum: how many sites may be bad.
        normaliser: How remaining life sees its sensors. shared: by counts, means and deviations of all sites' channels
            together, which sites tell before round 1: for machines of one kind. local: by a site's own.
        share: Which weights travel; the others stay at their site. ``no-norm`` is FedBN, ``bias`` is biases and head.
        compression: How updates travel; what rounding loses is sent a round later.
        evaluate_every: The average is judged on each site's validation split every so many rounds.
        quorum: So many sites' updates must be in, else the round is repeated.
        deadline_s: How long a round waits for a site; a slower one is named and left out.
        outlier: An update so many times longer than the median one is left out. Of two sites, where no median tells,
            one that is as much longer than all it sent before is left out, and otherwise counts as so many times
            the other.
        seed: For partitions in a simulation.
        compare_local: Each site also trains alone, so that the report can say what federation was worth.
        cross_site: Each site's model is judged on the others' test splits; in simulations only, models do not travel.
        privacy: Differential privacy or secure aggregation.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rounds: int = Field(default=0, ge=0, le=1000)
    steps: int | None = Field(default=None, ge=1, le=1_000_000)
    strategy: Strategy = "fedavg"
    proximal: float | None = Field(default=None, ge=0, le=1000, allow_inf_nan=False)
    server_rate: float | None = Field(default=None, gt=0, le=10, allow_inf_nan=False)
    trim: float = Field(default=0.2, ge=0, lt=0.5)
    malicious: int = Field(default=0, ge=0, le=1000)
    normaliser: Normaliser = "shared"
    share: Share = "all"
    compression: Compression = "int8"
    evaluate_every: int = Field(default=1, ge=1)
    quorum: int = Field(default=2, ge=1, le=1000)
    deadline_s: float = Field(default=1800.0, gt=0, le=7 * 86400)
    outlier: float = Field(default=5.0, gt=1, allow_inf_nan=False)
    seed: int = Field(default=0, ge=0)
    compare_local: bool = True
    cross_site: bool = False
    privacy: PrivacySection = PrivacySection()

    @model_validator(mode="after")
    def _consistent(self) -> FederatedSection:
        problems = [*self._of_strategy()]
        problems += conflicts(
            self.privacy, strategy=self.strategy, compression=self.compression, quorum=self.quorum, weighted=False
        )
        if self.privacy.kind != "none" and self.outlier != type(self).model_fields["outlier"].default:
            known = "differential privacy: the clip bounds each update" if self.privacy.kind == "dp" else _UNSEEN
            problems.append(f"outlier = {self.outlier:g} with {known}; remove it")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _of_strategy(self) -> list[str]:
        """Return what is asked of a strategy that would do nothing with it, or cannot keep its promise."""
        problems = []
        if self.proximal is not None and self.strategy != "fedprox":
            problems.append(f'proximal means nothing with strategy = "{self.strategy}"; take "fedprox" or remove it')
        if self.server_rate is not None and self.strategy != "fedadam":
            problems.append(f'server_rate means nothing with strategy = "{self.strategy}"; take "fedadam" or remove it')
        if self.strategy == "trimmed" and int(self.trim * self.quorum) < 1:
            problems.append(
                f"trim = {self.trim:g} of {self.quorum} sites leaves nobody out: raise trim or quorum until "
                "their product is 1"
            )
        if self.strategy == "krum" and self.quorum < 2 * self.malicious + 3:
            problems.append(
                f"krum tells {self.malicious} bad sites from the others only among {2 * self.malicious + 3} or more "
                f"(2 × malicious + 3): raise quorum from {self.quorum}"
            )
        if self.malicious and self.strategy != "krum":
            problems.append(f'malicious means nothing with strategy = "{self.strategy}"; take "krum" or remove it')
        return problems

    @property
    def tells_sensors(self) -> bool:
        """Whether sites tell counts, means and deviations of their channels: not where they were promised more privacy,
        where a strategy bears bad sites (one site's numbers would move all), or where part of the weights stays."""
        robust = self.strategy in ("fedmedian", "trimmed", "krum")
        return self.normaliser == "shared" and self.privacy.kind == "none" and self.share == "all" and not robust

    @property
    def equal_weights(self) -> bool:
        """Whether sites count equally instead of by their samples: privacy's promises are made for that."""
        return self.privacy.kind != "none"

    @property
    def mu(self) -> float:
        """FedProx's μ; 0 with the other strategies."""
        if self.strategy != "fedprox":
            return 0.0
        return PROXIMAL if self.proximal is None else self.proximal

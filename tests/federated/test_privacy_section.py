from __future__ import annotations

import pytest
from pydantic import BaseModel, ConfigDict

from edge_sft import strict_toml
from edge_sft.errors import UserError
from edge_sft.federated_privacy_section import PrivacySection, conflicts


class Recipe(BaseModel):
    model_config = ConfigDict(extra="forbid")
    privacy: PrivacySection = PrivacySection()


DP = PrivacySection(kind="dp", clip=1.0, noise=1.0)
SECAGG = PrivacySection(kind="secagg")


def test_nothing_written_is_nothing_hidden() -> None:
    assert strict_toml.loads("", Recipe, source="recipe.toml").privacy.kind == "none"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('kind = "dp"', "needs clip and noise"),
        ('kind = "dp"\nclip = 1.0', "needs noise: "),
        ('kind = "dp"\nclip = 0.0\nnoise = 1.0', "greater than 0"),
        ('kind = "dp"\nclip = inf\nnoise = 1.0', "finite"),
        ('kind = "dp"\nclip = 1.0\nnoise = 1.0\nrange = 2.0', "range means nothing with kind = "),
        ("clip = 1.0\nnoise = 1.0", "clip, noise mean nothing"),
        ('kind = "secagg"\nnoise = 1.0', "noise means nothing"),
        ('kind = "dp"\nclip = 1.0\nnoize = 1.0', "did you mean 'noise'"),
        ('kind = "sekagg"', "secagg"),
    ],
)
def test_half_a_promise_is_refused(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        strict_toml.loads(f"[privacy]\n{text}", Recipe, source="recipe.toml")


@pytest.mark.parametrize("privacy", [DP, SECAGG])
@pytest.mark.parametrize("strategy", ["fedavg", "fedprox"])
def test_what_holds_is_taken(privacy: PrivacySection, strategy: str) -> None:
    assert conflicts(privacy, strategy=strategy, compression="none", quorum=3) == []


def test_without_privacy_everything_goes() -> None:
    assert conflicts(PrivacySection(), strategy="krum", compression="int8", quorum=1, weighted=True) == []


@pytest.mark.parametrize("privacy", [DP, SECAGG])
@pytest.mark.parametrize("strategy", ["fedadam", "fedmedian", "trimmed", "krum"])
def test_only_plain_means(privacy: PrivacySection, strategy: str) -> None:
    (told,) = conflicts(privacy, strategy=strategy, compression="none", quorum=3)
    assert strategy in told
    assert "fedavg" in told


@pytest.mark.parametrize("privacy", [DP, SECAGG])
@pytest.mark.parametrize("compression", ["bf16", "int8"])
def test_no_leftovers_past_the_clip(privacy: PrivacySection, compression: str) -> None:
    (told,) = conflicts(privacy, strategy="fedavg", compression=compression, quorum=3)
    assert 'compression = "none"' in told


def test_equal_sites_and_enough_of_them() -> None:
    assert "equally" in conflicts(DP, strategy="fedavg", compression="none", quorum=2, weighted=True)[0]
    assert "at least 2" in conflicts(DP, strategy="fedavg", compression="none", quorum=1)[0]
    assert "quorum = 3 or more" in conflicts(SECAGG, strategy="fedavg", compression="none", quorum=2)[0]
    assert len(conflicts(SECAGG, strategy="krum", compression="int8", quorum=1, weighted=True)) == 4


@pytest.mark.parametrize("privacy", [PrivacySection(), DP, SECAGG])
def test_what_was_written_out_is_read_again(privacy: PrivacySection) -> None:
    assert PrivacySection.model_validate(privacy.model_dump(mode="json")) == privacy

from __future__ import annotations

from collections import Counter

import pytest

from edge_sft.errors import DataError, UserError
from edge_sft.federated import partition

LABELS = {f"p{number:03d}": "ok" if number % 3 else "scratch" for number in range(300)}


def test_groups_stay_whole_and_sites_are_about_as_large():
    groups = {f"p{number:03d}": f"lot{number // 20}" for number in range(300)}
    found = partition.by_group(groups, 4, seed=1)
    assert found.keys() == groups.keys()
    assert all(len({found[sample] for sample in found if groups[sample] == lot}) == 1 for lot in set(groups.values()))
    sizes = Counter(found.values())
    assert max(sizes.values()) - min(sizes.values()) <= 20


def test_fewer_groups_than_sites_are_refused():
    with pytest.raises(DataError, match="2 groups for 3 sites"):
        partition.by_group({"a": "x", "b": "y"}, 3, seed=0)


def test_classes_are_mixed_differently_and_every_site_gets_some_of_each():
    found = partition.by_classes(LABELS, 4, 0.3, seed=2, least=5)
    assert found.keys() == LABELS.keys()
    counts = Counter((found[sample], label) for sample, label in LABELS.items())
    assert len(counts) == 8
    assert min(counts.values()) >= 5
    shares = [counts[site, "ok"] / (counts[site, "ok"] + counts[site, "scratch"]) for site in partition.names_of(4)]
    assert max(shares) - min(shares) > 0.2
    assert found == partition.by_classes(LABELS, 4, 0.3, seed=2, least=5)
    assert found != partition.by_classes(LABELS, 4, 0.3, seed=3, least=5)


def test_near_duplicates_go_to_one_site():
    groups = {sample: sample[:3] for sample in LABELS}
    found = partition.by_classes(LABELS, 3, 1.0, seed=0, groups=groups)
    assert all(len({found[s] for s in found if groups[s] == group}) == 1 for group in set(groups.values()))


def test_what_is_asked_for_is_read():
    assert partition.parse("group") == ("group", 0.0)
    assert partition.parse("dirichlet(0.5)") == ("dirichlet", 0.5)
    assert partition.parse("plants.csv") == ("file", 0.0)
    with pytest.raises(UserError, match="none"):
        partition.parse("evenly")
    with pytest.raises(UserError, match="above 0"):
        partition.by_classes(LABELS, 2, 0.0, seed=0)
    with pytest.raises(UserError, match="0 sites"):
        partition.names_of(0)


def test_the_file_says_again_what_was_written():
    found = partition.by_classes(LABELS, 4, 0.5, seed=0)
    assert partition.read(partition.write(found), source="x.csv") == found


@pytest.mark.parametrize(
    ("text", "words"),
    [("id;site\na;b\n", "no partition"), ("id,site\na,\n", "no part"), ("id,site\na,x\na,y\n", "1 sam")],
)
def test_a_file_that_is_none_is_refused(text: str, words: str):
    with pytest.raises(DataError, match=words):
        partition.read(text, source="x.csv")

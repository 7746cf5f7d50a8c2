"""The end of a run: what sites tell, what the coordinator writes of it, and who remembers the record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flwr", reason="no Flower: the end of a run is not proved")

from edge_sft.errors import DataError, UserError
from edge_sft.federated import chain, pooled
from edge_sft.federated.outward import Sayable
from edge_sft.federated.report import of_run
from edge_sft.federated.report_verify import verify
from edge_sft.federated.running import prepare
from edge_sft.federated.server import Settings, serve
from edge_sft.federated.settings import check_apart, section_of
from edge_sft.federated.site_store import SiteStore
from edge_sft.federated.summary import summarise
from edge_sft.progress import Silent

from . import plants


def ended(tmp_path: Path, **federated: Any) -> plants.Plants:
    run = plants.Plants(tmp_path, plants.recipe(rounds=2, **federated))
    run.run()
    return run


def facts_of(run: plants.Plants) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((run.store().folder / "result" / "federated.json").read_text())
    return facts


@pytest.mark.parametrize("compare", [True, False])
def test_alone_is_a_model_of_its_own_where_it_is_asked_for(compare: bool, tmp_path: Path) -> None:
    facts = facts_of(ended(tmp_path, compare_local=compare))
    assert facts["score"] == "rmse"
    assert facts["status"] == "finished"
    for row in facts["sites"].values():
        assert set(row["alone"]) == ({"val", "test"} if compare else set())
        assert set(row["personal"]) == set(row["global"]) == {"val", "test"}
    assert SiteStore(tmp_path / "sites" / "plant-a", "first").alone.exists() == compare


def test_strange_numbers_of_a_site_stop_nobody(tmp_path: Path) -> None:
    run = ended(tmp_path)
    store = run.store()
    line = dict(store.lines("final")[0])
    strange = {"personal": 1.0, "personal/val": 1.0, "personal/val/a/b": 2.0, "paired/x": 1.0, "paired/x/y/z/w": 3.0}
    gap = {"difference": 0.1, "low": 0.0, "high": 0.2}
    paired = {f"paired/personal-alone/test/{name}": value for name, value in gap.items()}
    store.note({**{key: value for key, value in line.items() if key != "prev"}, "metrics": strange | paired})
    state = store.load()
    assert state is not None
    found = summarise(store, section_of(store.recipe()), state)["sites"][line["site"]]
    assert found["paired"]["personal-alone"] == {"test": gap}


def test_a_record_written_anew_is_found_out_by_what_a_site_kept(tmp_path: Path) -> None:
    run = ended(tmp_path)
    folder, site = run.store().folder, tmp_path / "sites" / "plant-b"
    kept = chain.check(SiteStore(site, "first").folder / "record.jsonl").records
    assert [line["round"] for line in kept] == [2, 3], "round 1 begins with an empty record"
    assert all(one.holds for one in verify(folder, [site]))
    record = folder / "rounds.jsonl"
    lines = chain.check(record).records
    record.unlink()
    for line in lines:  # another loss, and a chain in itself
        chain.append(record, {**{key: value for key, value in line.items() if key != "prev"}, "time": "later"})
    broken = [one for one in verify(folder, [site]) if not one.holds]
    assert [Path(one.thing).name for one in broken] == ["rounds.jsonl"]
    assert "2 lines of it that a site was told of" in broken[0].words
    with pytest.raises(DataError, match="does not exist"):
        verify(folder, [tmp_path])


def test_a_head_that_is_none_is_not_kept(tmp_path: Path) -> None:
    store = SiteStore(tmp_path, "friday")
    store.witness(1, "")
    with pytest.raises(Sayable, match=r"no SHA-256"):
        store.witness(1, "x" * 64)
    store.witness(1, "a" * 64)
    store.witness(1, "a" * 64)
    assert len(chain.check(store.folder / "record.jsonl").records) == 1


def test_a_simulation_tells_what_plants_cannot_know(tmp_path: Path) -> None:
    run = ended(tmp_path)
    store = run.store()
    (store.folder / "sites").symlink_to(tmp_path / "sites")

    def train(recipe: str, datas: Any, out: Path, progress: Any) -> None:
        plants.Toy(datas["plant-a"]).checkpoint(out, personal=False, progress=progress)

    pooled.compare(store, Silent(), central=True, cross=True, make=plants.make, train=train)
    facts = facts_of(run)
    assert set(facts["sites"]["plant-b"]["central"]) == {"val", "test"}
    assert set(facts["cross_site"]) == set(facts["cross_site"]["plant-a"]) == set(plants.NAMES)
    own = facts["sites"]["plant-c"]["personal"]["test"]["rmse"]
    assert facts["cross_site"]["plant-c"]["plant-c"] == pytest.approx(own)
    page = of_run(store.folder)
    assert "Each model at every site" in page
    assert "central: learnt from all sites" in page


def test_models_of_sites_do_not_travel(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(plants.recipe(rounds=2, cross_site=True))
    with pytest.raises(UserError, match="models of sites do not travel"):
        check_apart(section_of(recipe.read_text()), str(recipe))
    with pytest.raises(UserError, match="models of sites do not travel"):
        prepare(tmp_path / "runs", "first", recipe, None)
    run = plants.Plants(tmp_path, recipe.read_text())
    run.store()
    (tmp_path / "sites.toml").write_text("")
    with pytest.raises(UserError, match="models of sites do not travel"):
        serve(run.grid(), {"run-dir": str(tmp_path / "runs"), "run-name": "first"}, Settings(say=print))

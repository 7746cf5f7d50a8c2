from __future__ import annotations

import html
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_sft.errors import DataError
from edge_sft.federated import chain
from edge_sft.federated.accounting import epsilon
from edge_sft.federated.report import of_run
from edge_sft.federated.report_facts import read

from . import runs


def words(page: str) -> str:
    """What a reader sees, on one line."""
    body = page.split("<body>")[1]
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).replace("\u00a0", " ").split())


def told(make: Callable[[Path], Path], folder: Path) -> str:
    return words(of_run(make(folder)))


def card(page: str, name: str) -> str:
    found = re.search(rf'<section id="{name}".*?</section>', page, re.DOTALL)
    assert found is not None, name
    return words(f"<body>{found.group(0)}")


def test_a_finished_run_in_three_sentences(tmp_path: Path) -> None:
    page = of_run(runs.finished(tmp_path / "friday"))
    told = card(page, "happened")
    assert "beats learning alone at 2 of 3 sites" in words(page)
    assert "3 sites (kiel, linz and ulm) learnt together in 3 of 3 rounds by FedAvg" in told
    assert "(FedBN), and updates travel as INT8" in told
    assert "gains +2.7 points of balanced accuracy on average" in told
    assert "gains least at ulm (−2.0 points), and the worst model is linz's with 82 %" in told
    assert "Missing were linz in 1 round" in told
    assert "1.05 MB up and 1.08 MB down (5.2 % of plain FedAvg)" in told
    assert "the record's hash chain holds" in told


def test_a_site_that_loses_is_named(tmp_path: Path) -> None:
    told = card(of_run(runs.finished(tmp_path / "friday")), "happened")
    assert "Federation costs ulm" in told
    assert "(−2.0 points, 95 % −3.5 to −0.4)" in told
    assert "costs kiel" not in told


def test_with_and_without_the_others(tmp_path: Path) -> None:
    told = card(of_run(runs.finished(tmp_path / "friday")), "sides")
    assert "kiel 240 85 % 89 % 92 % 93 % +7.0 points +3.1 to +10.8 the personal one" in told
    assert "linz worst 240 79 % 81 % 82 % 84 % +3.0 points –" in told
    assert "mean of sites" in told
    assert "own test split" in told
    assert "No intervals" not in told


def test_curves_follow_what_the_sites_were_sent(tmp_path: Path) -> None:
    page = of_run(runs.finished(tmp_path / "friday"))
    curves = re.search(r'<section id="curves".*?</section>', page, re.DOTALL)
    assert curves is not None
    assert curves.group(0).count("<svg") == 3
    assert curves.group(0).count("<circle") == 3 * 4  # before rounds 1, 2, 3 and after the last
    assert curves.group(0).index("linz") < curves.group(0).index("kiel")  # the worst leads
    assert "validation split" in curves.group(0)


def test_the_matrix_and_the_grid(tmp_path: Path) -> None:
    page = of_run(runs.finished(tmp_path / "friday"))
    assert "kiel 90 % 71 % 72 %" in card(page, "cross")
    grid = card(page, "participation")
    assert "linz in 42 s late 42 s in 42 s" in grid
    assert "Round 2, linz: it had not answered after 30 min" in grid
    traffic = card(page, "bytes")
    assert "Plain FedAvg would send 13.6 MB up and 27.2 MB down" in traffic
    assert "kiel 3 1.05 MB 1.08 MB 5.2 % – 42 s 2.1 min 0.8" in traffic
    assert "2 05:02:00 ↑ 1.05 MB ↓ 1.08 MB" in traffic


def test_a_run_that_goes_on(tmp_path: Path) -> None:
    told_all = told(runs.going, tmp_path / "friday")
    assert "1 of 3 rounds done over 3 sites; still going, or killed" in told_all
    assert "Last heard of at 2026-11-23T05:01:00Z" in told_all
    assert "No site has reported how good its model is yet" in told_all
    assert "training loss" in told_all
    assert "never contributed" not in told_all


def test_a_run_that_stopped(tmp_path: Path) -> None:
    page = of_run(runs.failed(tmp_path / "friday"))
    told_all = words(page)
    assert "Stopped after 1 of 3 rounds" in told_all
    assert "round 2 had 1 usable update of the 2 it needs, three times" in told_all
    assert "ulm never contributed: its update has NaN in head.weight." in told_all
    assert "linz never" not in told_all
    assert "Round 2 gave no new weights at least once" in told_all
    assert "2, again" in card(page, "participation")


def test_nothing_has_happened_yet(tmp_path: Path) -> None:
    told_all = words(of_run(runs.write(tmp_path / "friday", [])))
    assert "0 of 3 rounds done over 0 sites" in told_all
    assert "No round has ended yet" in told_all


def test_less_error_is_better_and_privacy_is_said(tmp_path: Path) -> None:
    page = of_run(runs.turbofans(tmp_path / "night"))
    table = card(page, "sides")
    assert "FD001 100 15 18 14 +6.7 % –" in table
    assert "FD004 worst 400 18 21 17 +5.6 %" in table
    assert "central" not in table
    assert "No intervals: no site compared them sample by sample" in table
    assert "beats learning alone at 4 of 4 sites" in words(page)
    setup = card(page, "setup")
    assert f"ε = {epsilon(3, 0.5, 1e-5):.3g} at δ = 1e-05" in setup
    assert "Counts, losses and scores that sites report are not covered" in setup
    told_all = card(page, "happened")
    assert "Only 4 sites: with so few" in told_all
    assert "promises next to nothing" in told_all
    assert "Few test samples at FD001 (100)" in told_all


def test_a_changed_record_is_said(tmp_path: Path) -> None:
    folder = runs.finished(tmp_path / "friday")
    record = folder / "rounds.jsonl"
    record.write_text(record.read_text(encoding="utf-8").replace('"late"', '"in"'), encoding="utf-8")
    page = of_run(folder)
    assert "The record was changed: line 3 does not follow from line 2" in card(page, "happened")
    assert "line 3 does not follow" in card(page, "origin")
    assert "hash chain is broken" in words(page)


def test_changes_in_the_middle_of_a_run_are_said(tmp_path: Path) -> None:
    lines = [
        runs.round_line(
            number, {"kiel": runs.site_line(fingerprint=f"{number}" * 64)}, app=f"{number}" * 64, edge_sft=f"0.{number}"
        )
        for number in (1, 2)
    ]
    told_all = words(of_run(runs.write(tmp_path / "friday", lines)))
    assert "The data at kiel changed between rounds: 2 fingerprints" in told_all
    assert "2 different Flower apps" in told_all
    assert "2 versions of edge-sft wrote this record: 0.1 and 0.2" in told_all


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no federated run"):
        of_run(tmp_path)


def test_damage_is_shown_as_far_as_it_goes(tmp_path: Path) -> None:
    folder = runs.finished(tmp_path / "friday")
    (folder / "result" / "federated.json").write_text('{"sites": {"kiel": 3, "li', encoding="utf-8")
    (folder / "recipe.toml").write_text("rounds = [", encoding="utf-8")
    with (folder / "rounds.jsonl").open("ab") as file:
        file.write(b'{"prev": "tor')
    run = read(folder)
    assert (run.state, run.done, run.sites) == ("going", 3, ["kiel", "linz", "ulm"])
    assert run.chain.holds
    odd = {"round": 4, "sites": {"kiel": "?", "linz": {"status": 3, "seconds": "soon", "loss": True}, "ulm": None}}
    chain.append(folder / "rounds.jsonl", {**odd, "global": None, "time": 7})
    assert "round 4" in of_run(folder).lower()


def test_shapes_that_the_engine_may_write(tmp_path: Path) -> None:
    lines = [
        {"round": 1, "sites": {"kiel": {"status": "ok", "num-examples": 5}}, "global_sha256": "aa",
         "evaluation": {"kiel": {"val/rmse": 3.5}}}
    ]  # fmt: skip
    end = {"sites": {"kiel": {"metrics": {"personal/test/rmse": 2.0, "alone": {"test": {"rmse": 4.0}}},
                              "samples_test": 9, "samples_val": 4}},
           "cross": {"kiel": {"kiel": {"rmse": 2.0}}}}  # fmt: skip
    run = read(runs.write(tmp_path / "friday", lines, end))
    assert run.done == 1
    assert run.rounds[0].sites["kiel"].numbers == {"val/rmse": 3.5}
    assert run.results["kiel"].samples == {"test": 9.0, "val": 4.0}
    page = words(of_run(tmp_path / "friday"))
    assert "+50.0 %" in page


def test_the_models_size_is_read_from_the_weights(tmp_path: Path) -> None:
    folder = runs.going(tmp_path / "friday")
    header = json.dumps({"__metadata__": {}, "a": {"dtype": "F32", "shape": [5], "data_offsets": [0, 20]}}).encode()
    (folder / "result").mkdir()
    (folder / "result" / "global.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(20))
    assert read(folder).model_bytes == 20
    (folder / "result" / "global.safetensors").write_bytes(b"short")
    assert read(folder).model_bytes == 0


def test_the_coordinators_own_lines(tmp_path: Path) -> None:
    """As edge_sft.federated.rounds writes them: repeats and ends of their own kind, metrics as they came."""

    def site(**more: object) -> dict[str, object]:
        return {"status": "ok", "seconds": 3.2, "chain": "ee" * 32, "samples": 50, "fingerprint": "aa" * 32, **more}

    judged = {"before/val/score": -20.0, "before/val/rmse": 20.0, "before/val/samples": 9.0, "num-examples": 50.0}
    sick = {
        "kiel": site(metrics=judged, loss=0.4, length=0.25, bytes_up=700, bytes_down=900),
        "linz": {"status": "busy", "why": "no answer to round 1 within 1800 s; it is not waited for"},
        "ulm": {"status": "offline"},
        "graz": site(status="bad", why="is not finite in head.bias", remarks=["answered twice: the second is ignored"]),
    }
    end = {"kind": "final", "run": "friday", "round": 4, "site": "kiel", "global": "01", "chosen": "personal",
           "samples": {"train": 50, "val": 9, "test": 300}, "bytes_up": 5, "bytes_down": 7000, "status": "ok",
           "metrics": {"alone/test/rmse": 10.0, "personal/test/rmse": 9.0, "personal/test/score": -9.0}}  # fmt: skip
    lines = [
        {"kind": "round", "run": "friday", "round": 1, "time": "t", "sites": sick, "global": "01", "attempt": 1},
        *({"kind": "repeat", "run": "friday", "round": 2, "time": "t", "sites": sick} for _ in range(3)),
        end,
    ]
    folder = runs.write(tmp_path / "friday", lines)
    run = read(folder)
    assert (run.state, run.done, run.name) == ("stopped", 1, "friday")
    assert "too few usable updates, 3 times in a row" in run.why
    assert {name: one.taking for name, one in run.attempts[0].sites.items()} == {
        "graz": "out", "kiel": "in", "linz": "late", "ulm": "lost",
    }  # fmt: skip
    assert run.attempts[0].sites["kiel"].numbers == {"val/score": -20.0, "val/rmse": 20.0, "val/samples": 9.0}
    page = of_run(folder)
    assert "answered twice: the second is ignored" in card(page, "participation")
    assert "kiel worst 300 10 9 +10.0 % – the personal one" in card(page, "sides")
    assert "↑ 5 B ↓ 7 kB" in card(page, "bytes")
    assert "0.25" in card(page, "bytes")


def test_why_it_stopped_is_read(tmp_path: Path) -> None:
    folder = runs.going(tmp_path / "friday")
    (folder / "stopped.txt").write_text("greeting: 1 of 2 needed sites (kiel); linz: its node is not connected\n")
    page = words(of_run(folder))
    assert "Stopped after 1 of 3 rounds" in page
    assert "linz: its node is not connected. Started again by name, it goes on." in page

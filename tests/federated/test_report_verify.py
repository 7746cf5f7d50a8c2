from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from edge_sft.cli import main as cli
from edge_sft.cli.federate_report import report, verify
from edge_sft.errors import DataError, UserError
from edge_sft.federated import chain
from edge_sft.federated.report_verify import verify as verified

from . import runs

WEIGHTS = {"head": np.arange(6, dtype=np.float32).reshape(2, 3)}


def told_by(folder: Path, ledgers: tuple[Path, ...] = ()) -> dict[str, tuple[bool, str]]:
    found: dict[str, tuple[bool, str]] = {}
    for one in verified(folder, ledgers):
        name = Path(one.thing).name
        found[name] = (one.holds and found.get(name, (True, ""))[0], f"{found.get(name, (True, ''))[1]} {one.words}")
    return found


@pytest.fixture
def simulated(tmp_path: Path) -> Path:
    """A run with its simulated sites' folders, and final weights as recorded."""
    from edge_sft.federated import weights_file
    from edge_sft.federated.keys import digest

    folder = tmp_path / "federation" / "runs" / "friday"
    heads = {
        (site, number): chain.append(
            folder / "sites" / site / "ledger.jsonl", {"run": "friday", "round": number, "of": site}
        )
        for number in (1, 2)
        for site in ("kiel", "linz")
    }
    lines = [
        runs.round_line(
            number,
            {site: runs.site_line(chain=heads[site, number]) for site in ("kiel", "linz")},
            **{"global": digest(WEIGHTS)},
        )
        for number in (1, 2)
    ]
    runs.write(folder, lines)
    weights_file.write(folder / "result" / "global.safetensors", WEIGHTS)
    return folder


def test_what_fits_together(simulated: Path) -> None:
    found = verified(simulated)
    assert [one.holds for one in found] == [True] * 6
    assert "the weights that round 2 recorded" in found[1].words
    assert "has every line that kiel's 2 answers named" in found[3].words


def test_a_ledger_written_anew_is_found_out(simulated: Path) -> None:
    ledger = simulated / "sites" / "linz" / "ledger.jsonl"
    ledger.unlink()
    chain.append(
        ledger, {"run": "friday", "round": 1, "of": "linz"}
    )  # what it says left; shorter, and a chain in itself
    assert chain.check(ledger).holds
    assert any("1 line that linz had written" in one.words and not one.holds for one in verified(simulated))
    ledger.write_bytes(b"")
    assert any("no site of this run answered" in one.words and not one.holds for one in verified(simulated))


def test_a_record_written_anew_is_found_out(simulated: Path) -> None:
    record = simulated / "rounds.jsonl"
    lines = chain.check(record).records
    record.unlink()
    for line in lines:
        sites = {site: {**entry, "chain": "00" * 32} for site, entry in line["sites"].items()}
        chain.append(record, {**{key: value for key, value in line.items() if key != "prev"}, "sites": sites})
    found = told_by(simulated)
    assert found["rounds.jsonl"][0]
    assert not found["ledger.jsonl"][0]


def test_other_weights_are_found_out(simulated: Path) -> None:
    from edge_sft.federated import weights_file

    weights_file.write(simulated / "result" / "global.safetensors", {"head": WEIGHTS["head"] + 1})
    assert "not the weights of round 2" in told_by(simulated)["global.safetensors"][1]


def test_a_ledger_that_was_handed_over(simulated: Path, tmp_path: Path) -> None:
    handed = tmp_path / "handed.jsonl"
    (simulated / "sites" / "kiel" / "ledger.jsonl").rename(handed)
    assert told_by(simulated, (handed,))["handed.jsonl"][0]
    with pytest.raises(DataError, match="does not exist"):
        verified(simulated, (tmp_path / "none",))


def test_a_sites_own_folder(simulated: Path) -> None:
    (verdict,) = verified(simulated / "sites" / "kiel")
    assert verdict.holds
    assert "2 lines" in verdict.words


def test_as_typed(
    simulated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        sys, "argv", ["edge-sft", "federate", "report", "friday", "--dir", str(tmp_path / "federation")]
    )
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    assert "learnt together" in (simulated / "report.html").read_text(encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["edge-sft", "federate", "verify", str(simulated)])
    with pytest.raises(SystemExit):
        cli.main()
    assert capsys.readouterr().out.count("holds") == 6


def test_what_is_broken_fails(simulated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = simulated / "rounds.jsonl"
    record.write_text(record.read_text(encoding="utf-8").replace("412", "999"), encoding="utf-8")
    with pytest.raises(DataError, match="line 2 does not follow"):
        verify(str(simulated))
    assert "BROKEN" in capsys.readouterr().out


def test_unknown_runs_are_named(simulated: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Known there: friday"):
        report("monday", directory=tmp_path / "federation")
    with pytest.raises(UserError, match="Give the folder"):
        verify("monday", directory=tmp_path / "none")

from __future__ import annotations

import html
import re
from typing import Any

import numpy as np
import pytest

from edge_sft.alarms import Case, step
from edge_sft.errors import DataError
from edge_sft.policy import AlarmRule, RegressionPolicy
from edge_sft.prediction import Prediction
from edge_sft.report import anomaly_section, faults_section, rul_section, sensor_scores
from edge_sft.report.cases import cases_of
from edge_sft.report.rul_facts import RulFacts
from edge_sft.report.sensor_model_page import render
from edge_sft.report.wording import duration


def words(page: str) -> str:
    """The page's text."""
    body = page[page.index("<main>") :]
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).replace("\u00a0", " ").split())


def told(meta: Any, scores: Any, gates: Any = ()) -> str:
    return words(render(meta, scores, gates))


class TestRemainingLife:
    def test_the_headline_counts_failures(self, sensors: Any) -> None:
        page = told(sensors.rul_meta(), sensors.lives(), sensors.gates())
        assert "All 20 failures were announced in time, typically 40 cycles ahead" in page
        assert "0 of 20 failures came unannounced" in page
        assert "Measured on 20 test runs of machines that the model never saw in training" in page

    def test_a_failure_that_nobody_saw_coming(self, sensors: Any) -> None:
        scores = sensors.lives(3)
        blind = scores["test/run"] == "engine 002"
        for key in ("value", "low", "high"):
            scores[f"test/{key}"][blind] = 110.0
        page = told(sensors.rul_meta(), scores)
        assert "Of 3 failures, 2 were announced in time" in page
        assert "1 of 3 failures came unannounced" in page
        assert "engine 002 failed unannounced" in page.replace("among the worst ", "")

    def test_life_given_away_is_counted_from_the_announcement(self, sensors: Any) -> None:
        end = np.arange(1.0, 101.0)
        rul = 100 - end
        line = {"end": end, "rul": rul, "value": rul, "low": rul - 10, "high": rul + 10}
        scores = {"test/run": np.full(100, "a"), **{f"test/{key}": value for key, value in line.items()}}
        facts = rul_section.facts_of(sensors.rul_meta(act_below=5.0), scores)
        assert facts.calls.calls[0].left == 15.0
        by_value = RulFacts(facts.scores, RegressionPolicy(act_below=5.0, judge="value"))
        assert by_value.calls.calls[0].left == 5.0
        later = RulFacts(facts.scores, RegressionPolicy(act_below=5.0, alarm=AlarmRule(on_after_s=3.0)))
        assert later.calls.calls[0].left == 12.0
        assert facts.overall.held == 1.0
        assert facts.compared[0].capped == 0.0

    def test_coverage_by_hand(self, sensors: Any) -> None:
        rul = np.arange(40.0)[::-1]
        scores = {
            "test/run": np.full(40, "a"), "test/end": np.arange(40.0), "test/rul": rul, "test/value": rul + 4.0,
            "test/low": np.where(rul < 10, rul + 1, rul - 1), "test/high": rul + 6.0,
        }  # fmt: skip
        facts = rul_section.facts_of(sensors.rul_meta(), scores)
        assert facts.overall.held == pytest.approx(0.75)
        assert facts.overall.typical == pytest.approx(4.0)
        assert facts.overall.late == 1.0
        assert "The intervals promise 90 % and held 75 %" in told(sensors.rul_meta(), scores)

    def test_records_cut_short_promise_nothing_about_failures(self, sensors: Any) -> None:
        page = told(sensors.rul_meta(), sensors.lives(12, failed=False))
        assert "typically off by" in page.split("Measured on")[0]
        assert "When to act" not in page
        assert "No test run was followed to its failure, so no test shows" in page
        assert "last window of each run" in page
        assert "NASA score" in page

    def test_validation_shows_failures_where_the_test_has_none(self, sensors: Any) -> None:
        ended = {key.replace("test/", "val/"): value for key, value in sensors.lives(6).items()}
        page = told(sensors.rul_meta(), {**sensors.lives(12, failed=False), **ended})
        assert "12 test runs" in page.split("When to act")[0]
        assert "No test run was followed to its failure; these are validation. What the recipe's act_below" in page
        assert "6 of 6" in page

    def test_predict_the_mean_stands_beside(self, sensors: Any) -> None:
        page = told(sensors.rul_meta(), sensors.lives())
        assert "always the mean (87.4)" in page
        assert "RMSE, truth capped at 125 RMSE, raw truth" in page

    def test_nasa_score_by_hand(self, sensors: Any) -> None:
        scores = {
            "test/run": np.array(["a", "b"]), "test/end": np.array([1.0, 1.0]), "test/rul": np.array([50.0, 60.0]),
            "test/value": np.array([60.0, 47.0]), "test/low": np.zeros(2), "test/high": np.full(2, 99.0),
        }  # fmt: skip
        facts = rul_section.facts_of(sensors.rul_meta(), scores)
        assert facts.compared_last[0].nasa == pytest.approx(2 * (np.e - 1))
        assert facts.compared_last[0].raw == pytest.approx(np.sqrt((100 + 169) / 2))

    def test_without_a_line_to_act_at_it_says_so(self, sensors: Any) -> None:
        page = told(sensors.rul_meta(act_below=0.0), sensors.lives())
        assert "The recipe does not say when to act" in page
        assert "Choose a line of the table below" in page

    def test_what_became_of_a_base_is_said(self, sensors: Any) -> None:
        facts = {"base": "e5" * 32, "kept_base": True, "why": "2 labelled machines: too few to tell"}
        meta = sensors.rul_meta().model_copy(update={"training": facts})
        assert "Fine-tuned from a base model: 2 labelled machines: too few to tell" in told(meta, sensors.lives(3))

    def test_validation_stands_in_for_a_missing_test(self, sensors: Any) -> None:
        scores = {key.replace("test/", "val/"): value for key, value in sensors.lives(5).items()}
        assert "5 validation runs" in told(sensors.rul_meta(), scores)


class TestAnomalies:
    def test_the_headline_counts_events_and_false_alarms(self, sensors: Any) -> None:
        page = told(sensors.anomaly_meta(), sensors.watched(), sensors.gates())
        assert "8 of 9 events were found; 2 false alarms in 23 h" in page
        assert "Only 23 h of normal running was watched" in page
        assert "false alarms a day and machine" in page

    def test_days_of_watching_give_a_rate(self, sensors: Any) -> None:
        page = told(sensors.anomaly_meta(on_after_s=120.0, off_after_s=600.0), sensors.watched(step=100.0))
        assert re.search(r"8 of 9 events were found; 0\.\d+ false alarms a day", page)
        assert "normal running was watched. False alarms a day are scaled up" not in page

    def test_always_alarm_stands_beside(self, sensors: Any) -> None:
        page = told(sensors.anomaly_meta(), sensors.watched())
        assert re.search(r"always alarm 0\.\d+ 100 % 0 %", page)

    def test_where_alarms_come_from(self, sensors: Any) -> None:
        facts = anomaly_section.facts_of(sensors.anomaly_meta(), sensors.watched())
        real, false = facts.shares(false=False), facts.shares(false=True)
        assert real is not None
        assert false is not None
        assert sensors.CHANNELS[int(real.argmax())] == "vibration"
        assert sensors.CHANNELS[int(false.argmax())] == "motor current"

    def test_commissioning_is_never_judged(self, sensors: Any) -> None:
        scores = sensors.watched(events=False)
        scores["test/score"] = np.where(scores["test/commissioning"], 99.0, 0.0)
        page = told(sensors.anomaly_meta(), scores)
        assert "No false alarm in 27 h; no labelled event to find" in page
        assert "No event is labelled here" in page

    def test_without_a_threshold_nothing_is_judged(self, sensors: Any) -> None:
        scores = sensors.watched()
        scores["test/threshold"][:] = np.nan
        meta = sensors.anomaly_meta().model_copy(
            update={"training": {"not_commissioned": ["pump 1: pump 1: is too short."]}}
        )
        page = told(meta, scores)
        assert "No run here could be commissioned, so nothing was judged" in page
        assert "pump 4, pump 5 and pump 6. The first of them is too short." in page
        scores = sensors.watched()
        scores["test/threshold"][scores["test/run"] == "pump 2"] = np.nan
        assert "Not commissioned, so not judged: pump 2" in told(sensors.anomaly_meta(), scores)

    def test_lead_and_delay_by_hand(self, sensors: Any) -> None:
        label, score = np.zeros(100), np.full(100, 0.2)
        label[50:80] = 1
        score[56:90] = 2.0
        scores = {
            "test/run": np.full(100, "a"), "test/time": np.arange(100.0), "test/score": score,
            "test/threshold": np.ones(100), "test/label": label, "test/contributions": np.full((100, 5), 0.2),
        }  # fmt: skip
        facts = anomaly_section.facts_of(sensors.anomaly_meta(on_after_s=4.0, off_after_s=5.0), scores)
        (event,) = facts.events
        assert event.delay_s == 10.0
        assert event.left_s == 19.0
        assert facts.false == 0
        assert [(case.start, case.end) for case in facts.watched[0].cases] == [(60.0, 95.0)]
        assert facts.normal_s == 70.0

    def test_cases_are_those_of_the_device(self) -> None:
        random = np.random.default_rng(3)
        for rule in (AlarmRule(), AlarmRule(on_after_s=3, off_after_s=4, clear_ratio=0.8)):
            ratio = np.abs(np.convolve(random.normal(0.6, 0.6, 3000), np.ones(5) / 5, "same"))
            case, opened, found = Case(), None, []
            for row, value in enumerate(ratio):
                decided = Prediction(
                    stream="s", captured_at="", decided_at="", latency_ms=0, score=value,
                    verdict="nok" if value >= 1 else "ok",
                )  # fmt: skip
                case, events = step(case, decided, rule, float(row))
                for event in events:
                    if event.kind == "case_opened":
                        opened = event.at_s
                    else:
                        found.append((opened, event.at_s))
            time = np.arange(3000.0)
            ours = [(case.start, case.end) for case in cases_of(time, ratio >= 1, rule, ratio)]
            assert ours[: len(found)] == found
            assert len(found) > 10


class TestFaults:
    def test_the_headline_counts_missed_faults(self, sensors: Any) -> None:
        page = told(sensors.faults_meta(), sensors.recordings(), sensors.gates())
        assert "Of 27 faulty recordings, 4 are called healthy; of 9 healthy ones, 1 is called faulty" in page
        assert "31 of 36 recordings are named right" in page

    def test_machines_are_counted_not_windows(self, sensors: Any) -> None:
        page = told(sensors.faults_meta(), sensors.recordings())
        assert "9 of 12 machines named right in every recording 75 %; with 95 % confidence 43–95 %" in page
        assert "Few machines: healthy was heard on 3 machines only" in page

    def test_wrong_votes_come_first(self, sensors: Any) -> None:
        facts = faults_section.facts_of(sensors.faults_meta(), sensors.recordings())
        right = [vote.correct for vote in facts.voted]
        assert right == sorted(right)
        assert right.count(False) == 5

    def test_the_vote_is_the_mean_of_the_windows(self, sensors: Any) -> None:
        scores = {
            "test/run": np.array(["a", "a", "a", "b"]), "test/label": np.array([1, 1, 1, -1]),
            "test/probabilities": np.array([[0.6, 0.4, 0, 0], [0.6, 0.4, 0, 0], [0.1, 0.9, 0, 0], [1, 0, 0, 0]]),
        }  # fmt: skip
        facts = faults_section.facts_of(sensors.faults_meta(), scores)
        (vote,) = facts.voted
        assert vote.correct
        assert vote.right == pytest.approx(1.7 / 3)
        assert np.diag(facts.windows).sum() == 1

    def test_sorting_misses_nothing(self, sensors: Any) -> None:
        page = told(sensors.faults_meta(ok=()), sensors.recordings())
        assert "31 of 36 recordings are named right" in page
        assert "called healthy" not in page

    def test_a_simpler_answer_stands_beside(self, sensors: Any) -> None:
        assert "always the same label between 25% and" not in told(sensors.faults_meta(), sensors.recordings())
        assert re.search(r"always the same label .*?25 %", told(sensors.faults_meta(), sensors.recordings()))

    def test_a_label_that_nobody_recorded(self, sensors: Any) -> None:
        labels = (*sensors.LABELS, "cage")
        scores = sensors.recordings()
        scores["test/probabilities"] = np.pad(scores["test/probabilities"], ((0, 0), (0, 1)))
        page = told(sensors.faults_meta(labels=labels), scores)
        assert "Nothing is known about cage: no test recording has it" in page


def kinds(sensors: Any) -> list[tuple[Any, Any]]:
    return [
        (sensors.rul_meta(), sensors.lives(3)),
        (sensors.anomaly_meta(), sensors.watched(2)),
        (sensors.faults_meta(), sensors.recordings(4)),
    ]


def test_missing_arrays_are_named(sensors: Any) -> None:
    for (meta, scores), key in zip(kinds(sensors), ("low", "threshold", "label"), strict=True):
        with pytest.raises(DataError, match=f"scores without test/{key}"):
            render(meta, {name: value for name, value in scores.items() if name != f"test/{key}"}, ())
        with pytest.raises(DataError, match="different lengths"):
            render(meta, {**scores, f"test/{key}": scores[f"test/{key}"][:-1]}, ())
        with pytest.raises(DataError, match="has no scored"):
            render(meta, {}, ())


def test_nothing_known_is_said_in_words(sensors: Any) -> None:
    (rul, lives), _, (faults, recordings) = kinds(sensors)
    with pytest.raises(DataError, match="remaining life is known"):
        render(rul, {**lives, "test/rul": np.full_like(lives["test/rul"], np.nan)}, ())
    with pytest.raises(DataError, match="label is known"):
        render(faults, {**recordings, "test/label": np.full_like(recordings["test/label"], -1)}, ())


def test_one_window_is_enough(sensors: Any) -> None:
    for meta, scores in kinds(sensors):
        one = {key: value[:1] if np.ndim(value) else value for key, value in scores.items()}
        assert "What these numbers do not prove" in told(meta, one)


def test_runs_may_be_numbers(sensors: Any) -> None:
    scores = sensors.lives(3)
    names, index = np.unique(scores["test/run"], return_inverse=True)
    numbered = {**scores, "test/run": index, "test/runs": names}
    assert told(sensors.rul_meta(), numbered) == told(sensors.rul_meta(), scores)


def test_the_order_of_windows_does_not_matter(sensors: Any) -> None:
    for meta, scores in kinds(sensors)[:2]:
        order = np.random.default_rng(0).permutation(len(scores["test/run"]))
        mixed = {key: value[order] if np.ndim(value) else value for key, value in scores.items()}
        assert told(meta, mixed) == told(meta, scores)


def test_hostile_names_stay_text(sensors: Any) -> None:
    evil = "<img src=x onerror=alert(1)>"
    for meta, scores in kinds(sensors):
        scores["test/run"] = np.full(len(scores["test/run"]), evil)
        page = render(meta.model_copy(update={"name": evil}), scores, ())
        assert "<img" not in page


def test_the_pages_are_of_modest_size(sensors: Any) -> None:
    big = {"rows": 20_000, "runs": 40, "step": 1.0}
    page = render(sensors.anomaly_meta(), sensors.watched(**big), sensors.gates())
    assert len(page) < 400_000
    page = render(sensors.rul_meta(), sensors.lives(200), sensors.gates())
    assert len(page) < 400_000
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)


def test_the_gates_name_their_measure(sensors: Any) -> None:
    page = told(sensors.anomaly_meta(), sensors.watched(), sensors.gates())
    assert "variant AUROC verdicts turned wrong / right net loss" in page
    assert "int8-trt for NVIDIA's TensorRT not shipped 0.91 → 0.902 8 / 1 +0.80 points" in page


def test_the_mean_comes_from_the_other_split_where_training_did_not_say(sensors: Any) -> None:
    scores = sensors.lives(3)
    del scores["train/mean_rul"]
    own = sensor_scores.regression(scores, name="x").mean
    scores["val/rul"] = np.array([10.0, 200.0, np.nan])
    assert own == pytest.approx(np.minimum(scores["test/rul"], 125).mean())
    assert sensor_scores.regression(scores, name="x").mean == pytest.approx((10 + 125) / 2)


def test_durations() -> None:
    told = [duration(value).replace("\u00a0", " ") for value in (0, 4.25, 45, 120, 840, 7560, 300_000, 9e6)]
    assert told == ["0 s", "4.2 s", "45 s", "2 min", "14 min", "2.1 h", "3.5 days", "104 days"]

"""Hypotheses that a study writes down before its runs are tested one-sided and corrected over all sparsities."""

import json
import tomllib
from math import gamma, pi, sqrt
from pathlib import Path
from statistics import fmean, variance
from typing import Any

import numpy as np
import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsecore.cli.command_line import commands
from sparsecore.errors import InputError
from sparsecore.study.comparison import Cell
from sparsecore.study.definition import Study, load_study
from sparsecore.study.folder import StudyFolder
from sparsecore.study.hypotheses import evaluate_hypotheses, one_sided_welch
from sparsecore.study.trials import trials_of

ACCURACIES = {
    ("moving", 0.9): [96.0, 97.0, 98.0],
    ("moving", 0.8): [97.0, 97.5, 98.5],
    ("still", 0.9): [92.0, 93.0, 92.5],
    ("still", 0.8): [97.0, 98.0, 97.2],
    ("dense", None): [98.0, 98.5, 99.0],
}
PAIRS = [("moving", "still"), ("dense", "moving")]


def study(**changes: Any) -> Study:
    arms = [
        {"name": "moving", "label": "DPR <moving>", "strategy": ["dpr"]},
        {"name": "still", "strategy": ["static"]},
        {"name": "dense", "strategy": ["static"], "once": True, "settings": {"sparsity": 0.0}},
    ]
    hypotheses = [{"better": better, "worse": worse} for better, worse in PAIRS]
    tables = {"name": "two", "title": "?", "figure": "bars", "sparsities": [0.9, 0.8], "trials": 3, "arm": arms}
    return Study.of({**tables, "hypothesis": hypotheses, **changes})


def written(folder: Path, unfinished: tuple[str, ...] = ()) -> StudyFolder:
    """A study whose trials have these results, except for the arms that have not finished."""
    place = StudyFolder(folder / "study").create(study())
    for trial in trials_of(study()):
        if trial.arm not in unfinished:
            accuracy = ACCURACIES[trial.arm, trial.sparsity][trial.number] / 100
            place.run(trial).path.mkdir()
            place.run(trial).result.write_text(json.dumps({"test_accuracy": accuracy, "seconds": 1.0}))
    return place


def upper_tail(t: float, freedom: float) -> float:
    """P(T > t) of Student's t, by the midpoint rule; T = tan(angle)·√ν has the density C·cos(angle)^(ν-1)."""
    constant = gamma((freedom + 1) / 2) / (sqrt(pi) * gamma(freedom / 2))
    edges = np.linspace(np.arctan(t / sqrt(freedom)), pi / 2, 4_001)
    middles, width = (edges[1:] + edges[:-1]) / 2, edges[1] - edges[0]
    return float(constant * width * (np.cos(middles) ** (freedom - 1)).sum())


def expected_test(better: list[float], worse: list[float]) -> tuple[float, float, float]:
    """Difference, Welch's t and the one-sided p, by the formulas of Welch and Satterthwaite."""
    one, other = variance(better) / len(better), variance(worse) / len(worse)
    difference = fmean(better) - fmean(worse)
    t = difference / sqrt(one + other)
    freedom = (one + other) ** 2 / (one**2 / (len(better) - 1) + other**2 / (len(worse) - 1))
    return difference, t, upper_tail(t, freedom)


samples = st.lists(st.integers(-40, 40).map(lambda tenths: 95 + tenths / 10), min_size=2, max_size=8)


@settings(max_examples=40)
@given(samples, samples)
def test_a_test_is_welchs_one_sided(better: list[float], worse: list[float]) -> None:
    found, other = one_sided_welch(better, worse), one_sided_welch(worse, better)
    if not variance(better) + variance(worse):
        assert found is None
        return
    assert found is not None
    assert other is not None
    assert (found.difference, found.t, found.p) == pytest.approx(expected_test(better, worse), abs=1e-4)
    assert found.p + other.p == pytest.approx(1)


def test_a_single_trial_is_not_tested() -> None:
    assert one_sided_welch([97.0], [95.0, 96.0]) is None


def shown(place: StudyFolder, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    commands(["study", "show", str(place.path), "--json"], standalone_mode=False)
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def test_every_hypothesis_is_shown_at_every_sparsity_corrected_over_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = written(tmp_path)
    tests = shown(place, capsys)["hypotheses"]
    assert [(one["better"], one["worse"], one["sparsity"]) for one in tests] == [
        (better, worse, sparsity) for better, worse in PAIRS for sparsity in (0.9, 0.8)
    ]
    p_values = []
    for one in tests:
        better = ACCURACIES.get((one["better"], one["sparsity"]), ACCURACIES["dense", None])
        expected = expected_test(better, ACCURACIES[one["worse"], one["sparsity"]])
        assert (one["difference"], one["t"], one["p"]) == pytest.approx(expected, abs=1e-4)
        p_values.append(one["p"])
    # Holm: the k-th smallest of four times 4, 3, 2, 1, and never below one before it
    largest, corrected = 0.0, {}
    for factor, index in zip((4, 3, 2, 1), sorted(range(4), key=p_values.__getitem__), strict=True):
        largest = corrected[index] = max(largest, min(1, factor * p_values[index]))
    assert [one["corrected_p"] for one in tests] == pytest.approx([corrected[index] for index in range(4)])
    assert [one["supported"] for one in tests] == [corrected[index] < 0.05 for index in range(4)]
    assert [one["supported"] for one in tests] == [True, False, False, False]

    commands(["study", "show", str(place.path)], standalone_mode=False)
    printed = capsys.readouterr().out
    assert printed.count("not supported") == 3
    for expected in ("DPR <moving> > still", f"{tests[0]['p']:.2g}", f"{tests[0]['corrected_p']:.2g}"):
        assert expected in printed


def test_an_unfinished_test_is_not_judged_and_counts_as_one_in_the_correction(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, *others = shown(written(tmp_path, unfinished=("dense",)), capsys)["hypotheses"]
    assert first["corrected_p"] == pytest.approx(4 * first["p"])
    assert second["corrected_p"] == pytest.approx(min(1, 3 * second["p"]))
    for one in others:
        assert {one[key] for key in ("difference", "t", "p", "corrected_p", "supported")} == {None}


def test_a_study_without_hypotheses_tests_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = StudyFolder(tmp_path / "study").create(study(hypothesis=[]))
    assert "hypothesis" not in place.study.read_text("utf-8")
    assert shown(place, capsys)["hypotheses"] == []


def test_hypotheses_are_written_down_when_the_study_begins_and_cannot_be_changed_later(tmp_path: Path) -> None:
    place = written(tmp_path)
    assert place.read() == study()
    tables = tomllib.loads(place.study.read_text("utf-8"))
    tables["hypothesis"][1] = {"better": "still", "worse": "dense"}
    place.study.write_text(tomli_w.dumps(tables), "utf-8")
    with pytest.raises(InputError, match="has changed"):
        place.read()


def test_two_arms_that_run_once_are_compared_once() -> None:
    arms = [{"name": name, "once": True, "settings": {"sparsity": 0.0}} for name in ("wide", "narrow")]
    once = study(arm=arms, hypothesis=[{"better": "wide", "worse": "narrow"}])
    cells = [Cell(once.arm(name), None, (0.5, 0.6 + shift), 2) for name, shift in (("wide", 0.2), ("narrow", 0.0))]
    (only,) = evaluate_hypotheses(once, cells)
    assert only.sparsity is None
    assert only.test is not None
    assert only.corrected_p == only.test.p


def test_selected_arms_keep_the_hypotheses_about_them() -> None:
    assert [h.worse for h in study().only(["moving", "still"]).hypotheses] == ["still"]
    assert study().only(["still"]).hypotheses == ()
    preset = load_study("fig1a")
    assert {name for h in preset.hypotheses for name in (h.better, h.worse)} == {arm.name for arm in preset.arms}


@pytest.mark.parametrize(
    ("hypotheses", "words"),
    [
        ([{"better": "moving", "worse": "set"}], "two arms of the study: no arm named 'set'; known: dense, moving"),
        ([{"better": "moving", "worse": "moving"}], "given 'moving' twice"),
        ([{"better": "moving"}], "worse"),
        ([{"better": "moving", "worse": "still", "by": 1}], "no key named 'by'; known: better, worse"),
        ([{"better": "moving", "worse": "still"}, {"better": "still", "worse": "moving"}], "two hypotheses about"),
        ({"better": "moving", "worse": "still"}, r"tables \[\[hypothesis\]\]"),
        ("moving", r"tables \[\[hypothesis\]\]"),
    ],
)
def test_what_is_no_hypothesis_is_refused(hypotheses: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        study(hypothesis=hypotheses)

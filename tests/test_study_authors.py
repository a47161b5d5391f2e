"""The published results of the authors, and which results of a study are compared with them."""

import json
from importlib.resources import files
from statistics import fmean

import numpy as np
import pytest
from in_process import no_waiting_for_the_disk
from study_examples import written_study

from sparsecore.cli.command_line import commands
from sparsecore.study.comparison import compare_cells
from sparsecore.study.definition import Arm
from sparsecore.study.images import StudyImages
from sparsecore.study.published_results import published_results_of

WRN = {"name": "wrn-28-2", "depth": 28, "width": 2}
LENET = "lenet-300-100"
DPR = Arm("dpr", strategy=("dpr",))
CIFAR = StudyImages("CIFAR-10", published=True)
OUR_TRIALS = [93.5, 93.6, 93.9, 93.4, 93.7]


@pytest.fixture(autouse=True, scope="module")
def hurry():
    with no_waiting_for_the_disk():
        yield


def beside(folder, images=CIFAR, arms=("dpr",), **options):
    """The rows of a study of WRN-28-2 on CIFAR-10."""
    options = {"model.name": "wrn-28-2", "data.name": "cifar10", **options}
    place = written_study(folder, lambda trial: OUR_TRIALS[trial.number], arms, **options)
    return compare_cells(place.read(), place, images)


def test_the_published_means_agree_with_the_paper_and_the_file():
    dpr = published_results_of(WRN, "cifar10").accuracies(DPR, 0.9)
    assert fmean(dpr) == pytest.approx(93.588)  # 93.6 in arXiv 1902.05967
    facts = json.loads((files("sparsecore.study") / "authors.json").read_text())["experiments"][0]
    for name, arm in {"dpr": DPR, "set": Arm("set", strategy=("set",))}.items():
        for sparsity, trials in facts["trials"][name].items():
            assert published_results_of(WRN, "cifar10").accuracies(arm, float(sparsity)) == tuple(trials)
    dense = Arm("dense", strategy=("static",), once=True)
    assert published_results_of(WRN, "cifar10").accuracies(dense, None) == (94.7,)


def test_published_results_exist_for_no_other_network_data_set_arm_or_sparsity():
    assert published_results_of({**WRN, "name": "wrn-28-4"}, "cifar10") is None
    assert published_results_of({**WRN, "width": 4}, "cifar10") is None
    assert published_results_of(WRN, "cifar100") is None
    authors = published_results_of(WRN, "cifar10")
    assert authors.accuracies(DPR, 0.95) == ()
    assert authors.accuracies(Arm("mine", strategy=("dpr",)), 0.9) == ()
    assert authors.accuracies(Arm("dpr", strategy=("set", "dpr")), 0.9) == ()


def test_a_study_of_the_published_setting_is_compared_arm_by_arm(tmp_path):
    rows = beside(tmp_path, arms=("dpr", "rigl", "static", "dense", "pruned-dense", "thin-dense"))
    found = {row.cell.arm.name: row for row in rows}
    theirs = np.array([93.74, 93.63, 93.68, 93.29, 93.6])
    dpr = found["dpr"]
    assert dpr.published == tuple(theirs)
    assert dpr.difference.of_means == pytest.approx(np.mean(OUR_TRIALS) - theirs.mean())
    error = np.sqrt((np.var(OUR_TRIALS, ddof=1) + np.var(theirs, ddof=1)) / 5)
    assert dpr.difference.in_standard_errors == pytest.approx((np.mean(OUR_TRIALS) - theirs.mean()) / error)
    assert {name for name, row in found.items() if row.published} == {"dpr", "static", "dense", "pruned-dense"}
    assert (found["dense"].difference, found["dense"].remark) == (None, "the authors report one trial")
    # it lasts for a part of the study, after the dense network that it starts from
    assert (found["pruned-dense"].difference is not None, found["pruned-dense"].remark) == (True, "")


@pytest.mark.parametrize(
    ("options", "remark"),
    [
        ({"training.epochs": 20}, "shortened: 20 of 200 epochs"),
        ({"training.epochs": 400}, "lengthened: 400 of 200 epochs"),
        ({"data.limit": 2000}, "shortened: 2,000 training images"),
        ({"data.held_out": 5000}, "shortened: 5,000 held-out training images for a test"),
    ],
)
def test_a_shorter_or_longer_study_is_marked_and_not_compared(tmp_path, options, remark):
    rows = beside(tmp_path, **options)
    published = {(row.difference, row.remark) for row in rows if row.published}
    assert published == {(None, remark)}


def test_a_missing_published_training_length_is_stated(tmp_path):
    (dpr,) = beside(
        tmp_path, images=StudyImages("MNIST", published=True), **{"data.name": "mnist", "model.name": LENET}
    )
    assert dpr.published == (98.35, 98.53, 98.51, 98.32, 98.51)
    assert dpr.remark == "the authors do not report their number of epochs"


def test_results_on_other_images_are_never_compared_with_published_ones(tmp_path):
    rows = beside(tmp_path, images=StudyImages("CIFAR-10 (JPEG copy)"))
    assert not any(row.published or row.difference or row.remark for row in rows)


def test_show_has_columns_of_published_results_only_for_the_same_setting(tmp_path, capsys):
    ours = {"model.name": "wrn-28-2", "data.name": "cifar10"}
    same = written_study(tmp_path / "same", lambda trial: OUR_TRIALS[trial.number], **ours)
    commands(["study", "show", str(same.path)], standalone_mode=False)
    shown = capsys.readouterr().out
    assert "93.59 ± 0.17" in shown
    assert "the authors', %" in shown
    commands(["study", "show", str(same.path), "--json"], standalone_mode=False)
    (dpr,) = json.loads(capsys.readouterr().out)["cells"]
    assert dpr["authors"]["difference"] == pytest.approx(93.62 - 93.588)

    other = written_study(tmp_path / "other", lambda _: 93.0, **ours, **{"data.dir": str(tmp_path / "gone")})
    commands(["study", "show", str(other.path)], standalone_mode=False)
    assert "authors" not in capsys.readouterr().out

"""Reading aids of a report: light and dark mode, values under the pointer, type of one size."""

import re
from html import unescape
from pathlib import Path

import attrs
import pytest
from command_line import SMALL, small_images
from in_process import no_waiting_for_the_disk, run_in_process
from study_examples import small_study

from sparsecore.report.page import page
from sparsecore.report.reading import read_run
from sparsecore.study.definition import Study
from sparsecore.study.report import write_study_report
from sparsecore.study.trials import Trial, trials_of


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    images = small_images(folder / "small.npz")
    settings = ["--set", "strategy.schedule.steps=3", "--set", "backend.name=numpy", "--set", "strategy.target=6"]
    with no_waiting_for_the_disk():
        done = run_in_process("train", *SMALL, "--data-dir", images, *settings, "--out", folder / "run")
    assert done.status == 0, done.stderr
    return folder / "run"


def test_a_page_follows_the_readers_light_or_dark_mode(run: Path) -> None:
    html = (run / "report.html").read_text("utf-8")
    assert "prefers-color-scheme: dark" in html
    drawings = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    for drawing in drawings:
        assert "var(--ink)" in drawing
        assert not re.search(r"#(000000|ffffff)", drawing)


def test_points_show_their_values_under_the_pointer(run: Path) -> None:
    html = (run / "report.html").read_text("utf-8")
    titles = re.findall(r"<use [^>]*><title>([^<]*)</title></use>", html)
    last = read_run(run).epochs[-1]
    assert f"test: {100 * last.test_accuracy:.6g} at 3" in titles
    assert any(text.startswith("layer1.weight: ") and text.endswith("at step 3") for text in titles)


@pytest.mark.parametrize("figure", ["bars", pytest.param("sparsities", marks=pytest.mark.slow)])
def test_points_of_a_study_show_their_values_under_the_pointer(tmp_path: Path, figure: str) -> None:
    with no_waiting_for_the_disk():
        folder = small_study(tmp_path, trials=1, sparsities=[0.8], figure=figure)
        html = write_study_report(folder).read_text("utf-8")
    study = folder.read()
    titles = [unescape(text) for text in re.findall(r"<use [^>]*><title>([^<]*)</title></use>", html)]
    for trial in trials_of(study):
        result = folder.result(trial)
        assert result is not None
        assert any(trial_words(study, trial) in text and f"{100 * result.test_accuracy:.2f}" in text for text in titles)
    for words in ("of the network's density at epoch", "at epoch 2", ", layer1.weight: "):
        assert any(words in text for text in titles)
    ids = re.findall(r'\bid="([^"]*)"', html)
    assert len(ids) == len(set(ids))
    drawn = (folder.figures / "accuracy.svg").read_text("utf-8")
    assert "<title>" in drawn
    assert not re.search(r'id="hover-\d+\.', drawn)


def trial_words(study: Study, trial: Trial) -> str:
    """What an arm is called in figures."""
    return next(arm.title for arm in study.arms if arm.name == trial.arm)


def test_a_page_shows_learning_rate_duration_and_machine(run: Path) -> None:
    html = (run / "report.html").read_text("utf-8")
    assert "<h2>Learning rate</h2>" in html
    (effort,) = re.findall(r'<dl class="effort">(.*?)</dl>', html, re.DOTALL)
    for words in ("duration", "cores", "Python", "NumPy", "sparsecore"):
        assert words in effort


@pytest.mark.parametrize("kind", ["with a threshold", "without", "without updates"])
def test_figures_are_arranged_in_pairs(run: Path, kind: str) -> None:
    known = read_run(run)
    shown = {
        "with a threshold": known,
        "without": attrs.evolve(known, updates=tuple(attrs.evolve(one, metrics={}) for one in known.updates)),
        "without updates": attrs.evolve(known, updates=()),
    }[kind]
    (pairs,) = re.findall(r'<div class="pairs">(.*?)</div>', page(shown), re.DOTALL)
    assert pairs.count("<figure>") % 2 == 0
    assert pairs.count("<figure>") == pairs.count("<svg")


def test_no_drawing_is_scaled_up(run: Path) -> None:
    html = (run / "report.html").read_text("utf-8")
    (rule,) = re.findall(r"^figure svg \{([^}]*)\}", html, re.MULTILINE)
    assert "max-width: 100%" in rule
    assert not re.search(r"(?<!-)width: 100%", rule)


@pytest.mark.slow
def test_the_question_of_a_study_appears_once_on_its_page(tmp_path: Path) -> None:
    with no_waiting_for_the_disk():
        folder = small_study(tmp_path, trials=1, sparsities=[0.8], title="What is asked?")
        html = write_study_report(folder).read_text("utf-8")
    body = re.sub(r"<pre>.*?</pre>", "", html.partition("<body>")[2], flags=re.DOTALL)
    assert body.count("What is asked?") == 1
    assert "What is asked?" in (folder.figures / "accuracy.svg").read_text("utf-8")

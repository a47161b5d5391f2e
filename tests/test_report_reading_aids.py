"""Reading aids of a report: light and dark mode, values under the pointer, results before settings."""

import re
from html import unescape
from pathlib import Path

import pytest
from command_line import SMALL, small_images
from in_process import no_waiting_for_the_disk, run_in_process
from study_examples import small_study
from test_report import data_of

from sparsecore.report.colours import PAGE
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


def test_a_page_follows_the_readers_light_or_dark_mode_and_the_switch(run: Path) -> None:
    html = (run / "report.html").read_text("utf-8")
    dark = f"--page: {PAGE.dark};"
    assert re.search(
        rf"@media \(prefers-color-scheme: dark\) {{ :root:not\(\[data-theme=light\]\) {{[^}}]*{dark}", html
    )
    assert re.search(rf":root\[data-theme=dark\] {{[^}}]*{dark}", html)
    assert re.search(rf"@media print {{ :root:root:root {{[^}}]*--page: {PAGE.light};", html)
    assert '<button type="button" id="theme" hidden' in html  # without scripts there is nothing to switch
    for drawing in re.findall(r"<svg.*?</svg>", html, re.DOTALL):
        assert not re.search(r"#[0-9a-fA-F]{6}", drawing)  # all colours are those of the page


def test_points_show_their_values_under_the_pointer(run: Path) -> None:
    html = (run / "report.html").read_text("utf-8")
    last = read_run(run).epochs[-1]
    [panel] = data_of(html, "accuracy")
    assert (panel["heads"][-1], panel["unit"]) == ("epoch 3", "%")
    texts = {row["name"]: row["texts"][-1] for row in panel["rows"]}
    assert texts == {"train": f"{100 * last.train_accuracy:.6g}", "test": f"{100 * last.test_accuracy:.6g}"}
    [panel] = data_of(html, "active")
    assert "step 3" in panel["heads"]
    assert "layer1.weight" in [row["name"] for row in panel["rows"]]


@pytest.mark.parametrize("figure", ["bars", pytest.param("sparsities", marks=pytest.mark.slow)])
def test_points_of_a_study_show_their_values_under_the_pointer(tmp_path: Path, figure: str) -> None:
    with no_waiting_for_the_disk():
        folder = small_study(tmp_path, trials=1, sparsities=[0.8], figure=figure)
        html = write_study_report(folder).read_text("utf-8")
    study = folder.read()
    [panel] = data_of(html, "accuracy")
    for trial in trials_of(study):
        result = folder.result(trial)
        assert result is not None
        shown = f"{100 * result.test_accuracy:.2f}"
        if figure == "bars":
            assert panel["rows"][0]["texts"][panel["heads"].index(trial_words(study, trial))] == shown
        else:
            assert {row["name"]: row["texts"] for row in panel["rows"]}[trial_words(study, trial)] == [shown]
    assert "of the network" in data_of(html, "active-at-0-8")[0]["heads"][0]
    drawn = (folder.figures / "accuracy.svg").read_text("utf-8")
    titles = [unescape(text) for text in re.findall(r"<use [^>]*><title>([^<]*)</title></use>", drawn)]
    assert any(text.endswith(f"{shown} % at {trial_words(study, trial)}") or f"{shown} %" in text for text in titles)
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


def test_what_was_found_comes_first_and_settings_are_folded_away_at_the_end(run: Path) -> None:
    html = (run / "report.html").read_text("utf-8")
    places = [html.index(part) for part in ('<dl class="outcome">', "<figure", "<table", "<details><summary>Settings")]
    assert places == sorted(places)
    assert "<details open" not in html


@pytest.mark.slow
def test_the_question_of_a_study_appears_once_on_its_page(tmp_path: Path) -> None:
    with no_waiting_for_the_disk():
        folder = small_study(tmp_path, trials=1, sparsities=[0.8], title="What is asked?")
        html = write_study_report(folder).read_text("utf-8")
    body = re.sub(r"<pre>.*?</pre>", "", html.partition("<body>")[2], flags=re.DOTALL)
    assert body.count("What is asked?") == 1
    assert "What is asked?" in (folder.figures / "accuracy.svg").read_text("utf-8")

"""The report of a study: everything is on the page, says what is missing, and tells what the logs tell."""

import errno
import json
import re
import subprocess
import sys
from html import unescape
from pathlib import Path
from statistics import fmean, stdev

import attrs
import pytest
from matplotlib.figure import Figure as Canvas
from study_examples import no_waiting_for_the_disk, small_study, written_study
from test_report import Outline

from sparsecore.cli.command_line import commands
from sparsecore.errors import InputError
from sparsecore.report.drawing import Drawing
from sparsecore.study.experiments import trials_of
from sparsecore.study.folder import StudyFolder
from sparsecore.study.report import (
    accuracy_figure,
    density_heat_maps,
    explored_figure,
    final_sparsity_figure,
    overlap_figure,
    panels,
    write_study_report,
)
from sparsecore.study.report.contents import read_study_results


@pytest.fixture(autouse=True, scope="module")
def hurry():
    with no_waiting_for_the_disk():
        yield


@pytest.fixture(scope="module")
def carried_out(tmp_path_factory, hurry):  # noqa: ARG001
    """A study with its report; one trial has not finished."""
    folder = small_study(tmp_path_factory.mktemp("small"))
    folder.run(trials_of(folder.read())[-1]).result.unlink()
    commands(["study", "report", str(folder.path)], standalone_mode=False)
    return folder


@pytest.fixture(scope="module")
def page(carried_out):
    return carried_out.report.read_text(encoding="utf-8")


def test_the_page_needs_nothing_else(page):
    outline = Outline(page)
    assert not {"script", "link", "img", "iframe", "object", "embed", "base"} & set(outline.tags)
    assert all(reference.startswith(("#", "data:image/png;base64,")) for reference in outline.references)
    assert "@import" not in page
    assert len(outline.ids) == len(set(outline.ids))


def rows_of(page):
    """The cells of each row of each table, as text."""
    rows = re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)
    return [[unescape(re.sub("<.*?>", "", cell)) for cell in re.findall(r"<t[hd].*?</t[hd]>", row)] for row in rows]


def test_every_arm_every_mean_and_every_trial_is_on_the_page(carried_out, page):
    rows = rows_of(page)
    for arm in carried_out.read().arms:
        for sparsity in (0.8, 0.6):
            runs = [carried_out.runs / f"{arm.name}-at-{sparsity}-trial-{i}/result.json" for i in range(2)]
            found = [100 * json.loads(run.read_text())["test_accuracy"] for run in runs if run.exists()]
            spread = f" ± {stdev(found):.2f}" if len(found) > 1 else ""
            assert [arm.title, f"{sparsity:g}", f"{len(found)} of 2", f"{fmean(found):.2f}{spread}"] in rows
            assert [arm.title, f"{sparsity:g}", *(f"{one:.2f}" for one in found)] in rows


def test_what_is_missing_is_said_on_the_page_and_in_every_figure(carried_out, page):
    assert "1 of 16 trials have not finished: random-at-0.6-trial-1." in Outline(page).text
    assert read_study_results(carried_out).protocol == "lenet-12-8 on npz (images.npz), 2 epochs, 1–2 of 2 trials"


def test_every_title_on_the_page_names_model_images_length_and_trials(page):
    outline = Outline(page)
    for told in ("Does <it> work?", "lenet-12-8 on npz (images.npz), 2 epochs", "training.batch_size 16"):
        assert told in outline.text
    assert "The authors have published no trials of lenet-12-8 on npz (images.npz)." in outline.text


@pytest.fixture
def canvases(monkeypatch):
    """The matplotlib figures, by name, as the report's pictures leave them."""
    kept = {}

    def keep(name, size, compose):
        kept[name] = Canvas(figsize=size, layout="constrained")
        compose(kept[name])
        return Drawing(name, "<svg></svg>", b"")

    monkeypatch.setattr(panels, "draw_files", keep)
    return kept


@pytest.mark.parametrize("figure", ["bars", "sweep", "sparsities"])
def test_every_figure_has_its_protocol_and_labelled_axes(carried_out, canvases, figure):
    results = read_study_results(carried_out)
    if figure == "sweep":
        results = attrs.evolve(results, study=placed(results.study), rows=[moved(row) for row in results.rows])
    results = attrs.evolve(results, study=attrs.evolve(results.study, figure=figure))
    pictures = [
        accuracy_figure(results),
        *density_heat_maps(results),
        overlap_figure(results),
        explored_figure(results),
        final_sparsity_figure(results),
    ]
    assert {picture.name for picture in pictures if picture.drawing} == set(canvases)
    assert len(canvases) == 6
    for canvas in canvases.values():
        assert "lenet-12-8 on npz (images.npz), 2 epochs" in " ".join(canvas.get_suptitle().split())
        drawn = [axes for axes in canvas.axes if axes.get_visible() and axes.get_label() != "<colorbar>"]
        assert any(axes.get_ylabel() for axes in drawn)
        assert all(axes.get_xlabel() for axes in drawn[-1:])


def placed(study):
    return attrs.evolve(
        study, arms=[attrs.evolve(arm, fraction=0.5) if arm.name == "dpr" else arm for arm in study.arms]
    )


def moved(row):
    arm = row.cell.arm
    return attrs.evolve(
        row, cell=attrs.evolve(row.cell, arm=attrs.evolve(arm, fraction=0.5 if arm.name == "dpr" else None))
    )


def test_bars_are_as_high_as_the_means_and_of_their_arms_colours(carried_out, canvases):
    results = read_study_results(carried_out)
    accuracy_figure(results)
    for axes, sparsity in zip(canvases["accuracy"].axes, (0.8, 0.6), strict=True):
        bars = [bar for bar in axes.patches if bar.get_width() == pytest.approx(0.7)]
        rows = list(results.at(sparsity))
        assert [bar.get_height() for bar in bars] == pytest.approx([fmean(row.ours) for row in rows])
        colours = [results.style_of(row.cell.arm).colour for row in rows]
        assert [tuple(bar.get_facecolor()[:3]) for bar in bars] == [rgb(colour) for colour in colours]


def rgb(colour):
    return tuple(pytest.approx(int(colour[at : at + 2], 16) / 255) for at in (1, 3, 5))


def test_results_json_holds_the_numbers_and_figures_lie_beside_it(carried_out):
    results = json.loads(carried_out.results.read_text())
    assert results["missing"] == ["random-at-0.6-trial-1"]
    assert [cell["wanted"] - len(cell["accuracies"]) for cell in results["cells"]] == [0] * 7 + [1]
    assert len(results["topology_histories"]) == 15
    files = {path.name for path in carried_out.figures.iterdir()}
    figures = ("accuracy", "active-at-0-8", "active-at-0-6", "overlap", "explored", "final")
    assert files == {f"{name}.{ending}" for name in figures for ending in ("svg", "png")}
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in carried_out.figures.glob("*.png"))


def test_the_same_files_give_the_same_bytes_by_both_commands(carried_out, page, capsys):
    commands(["report", str(carried_out.path)], standalone_mode=False)
    assert capsys.readouterr().out.strip() == str(carried_out.report)
    assert carried_out.report.read_text(encoding="utf-8") == page


def test_a_study_that_has_not_begun_has_a_page_that_says_so(tmp_path, carried_out):
    folder = StudyFolder(tmp_path / "new")
    folder.create(carried_out.read())
    text = Outline(write_study_report(folder).read_text(encoding="utf-8")).text
    assert "16 of 16 trials have not finished" in text
    assert "No trial has finished yet." in text
    assert not list(folder.figures.iterdir())


@pytest.mark.integration
def test_importing_the_command_line_imports_no_plotting_and_no_scipy():
    look = (
        "import sys, sparsecore.cli.command_line\n"
        "sys.exit(any(name in sys.modules for name in ('matplotlib', 'scipy', 'torch')))"
    )
    subprocess.run([sys.executable, "-c", look], check=True, cwd=Path(__file__).parent.parent)


def test_drawings_in_the_page_refer_to_nothing_outside_of_themselves(page):
    inner = re.findall(r"url\(([^)]*)\)", page)
    assert {reference.removeprefix("#") for reference in inner} <= set(Outline(page).ids)


def test_a_title_with_dollars_in_it_stands_in_figures_as_it_was_written(carried_out):
    results = read_study_results(carried_out)
    drawn = accuracy_figure(
        attrs.evolve(results, study=attrs.evolve(results.study, title="does $x_{ cost $ 5?"))
    ).drawing
    assert drawn is not None
    assert "does $x_{ cost $ 5?" in unescape(drawn.svg)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"test_accuracy": "high", "seconds": 1}'])
def test_a_result_that_is_none_is_a_sentence_that_names_its_trial(tmp_path, content):
    folder = written_study(tmp_path, lambda _: 90.0)
    trial = trials_of(folder.read())[3]
    folder.run(trial).result.write_text(content)
    with pytest.raises(InputError, match=rf"the result of the trial {trial.name} cannot be read"):
        folder.result(trial)


def test_a_report_that_cannot_be_written_is_a_sentence(carried_out, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("sparsecore.study.report.write_whole", full)
    with pytest.raises(InputError, match=r"the report of the study .* cannot be written: No space left on device"):
        write_study_report(carried_out)

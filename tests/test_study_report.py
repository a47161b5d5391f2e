"""The report of a study shows every result and every missing one, as the logs have them."""

import errno
import json
import re
import shutil
import subprocess
import sys
from html import escape, unescape
from math import prod
from pathlib import Path
from statistics import fmean, stdev

import attrs
import pytest
from in_process import no_waiting_for_the_disk
from notebook_examples import Page as NotebookPage
from notebook_examples import assert_takes_the_colours_of_its_page
from study_examples import small_study, written_study
from test_report import Outline, csv_of, data_of

from sparsecore.cli.command_line import commands
from sparsecore.errors import InputError
from sparsecore.report.chart_files import draw_chart
from sparsecore.report.charts import MAX_POINTS
from sparsecore.report.marks import Bar
from sparsecore.study.folder import StudyFolder
from sparsecore.study.report import (
    accuracy_figure,
    density_heat_maps,
    density_lines,
    explored_figure,
    final_sparsity_figure,
    learning_rate_figure,
    overlap_figure,
    write_study_report,
)
from sparsecore.study.report.results import read_study_results
from sparsecore.study.topology_history import topology_history_of
from sparsecore.study.trials import trials_of


@pytest.fixture(autouse=True, scope="module")
def hurry():
    with no_waiting_for_the_disk():
        yield


@pytest.fixture(scope="module")
def carried_out(tmp_path_factory, hurry):  # noqa: ARG001
    """A study with its report; one trial, the first of its arm at its sparsity, has not finished."""
    folder = small_study(tmp_path_factory.mktemp("small"))
    (folder.runs / "random-at-0.6-trial-0/result.json").unlink()
    commands(["study", "report", str(folder.path)], standalone_mode=False)
    return folder


@pytest.fixture(scope="module")
def page(carried_out):
    return carried_out.report.read_text(encoding="utf-8")


def test_a_notebook_shows_each_cell_and_what_is_missing(carried_out):
    results = read_study_results(carried_out)
    shown = NotebookPage(results._repr_html_())
    head, *rows = shown.rows
    assert len(rows) == len(results.rows)
    for row, cell in zip(rows, results.rows, strict=True):
        assert row[0] == cell.cell.arm.title
        assert row[2] == f"{len(cell.accuracies)} of {cell.cell.wanted}"
        assert f"{fmean(cell.accuracies):.2f}" in row[3]
    assert head[:3] == ["arm", "sparsity", "trials"]
    assert "1 trial not finished" in shown.text
    assert_takes_the_colours_of_its_page(shown)


def test_the_page_is_one_file_that_needs_no_network(page):
    outline = Outline(page)
    assert not {"link", "img", "iframe", "object", "embed", "base"} & set(outline.tags)
    assert all(reference.startswith(("data:image/png;base64,", "data:text/csv")) for reference in outline.references)
    assert "@import" not in page
    assert "url(" not in page
    assert len(outline.ids) == len(set(outline.ids))


def rows_of(page):
    """The cells of each row of each table, as text."""
    rows = re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)
    return [[unescape(re.sub("<.*?>", "", cell)) for cell in re.findall(r"<t[hd].*?</t[hd]>", row)] for row in rows]


def test_every_arm_every_mean_and_every_trial_is_on_the_page(carried_out, page):
    rows = rows_of(page)
    titles = {arm.name: arm.title for arm in carried_out.read().arms}
    differing = [pair for pair in json.loads(carried_out.results.read_text())["pairs"] if pair["p"] < 0.05]
    for arm in carried_out.read().arms:
        for sparsity in (0.8, 0.6):
            runs = [carried_out.runs / f"{arm.name}-at-{sparsity}-trial-{i}/result.json" for i in range(2)]
            each = [100 * json.loads(run.read_text())["test_accuracy"] if run.exists() else None for run in runs]
            found = [one for one in each if one is not None]
            spread = f" ± {stdev(found):.2f}" if len(found) > 1 else ""
            cell = [arm.title, f"{sparsity:g}", f"{len(found)} of 2", f"{fmean(found):.2f}{spread}"]
            [row] = [row for row in rows if row[:4] == cell]
            better = {
                pair["better"] for pair in differing if pair["worse"] == arm.name and pair["sparsity"] == sparsity
            }
            worse = {pair["worse"] for pair in differing if pair["better"] == arm.name and pair["sparsity"] == sparsity}
            assert set(filter(None, row[4].split("; "))) == {titles[name] for name in better | worse}
            assert [arm.title, f"{sparsity:g}", *("" if one is None else f"{one:.2f}" for one in each)] in rows


def test_missing_trials_are_stated_on_the_page_and_in_every_figure(carried_out, page):
    assert "1 of 16 trials have not finished: random-at-0.6-trial-0." in Outline(page).text
    assert read_study_results(carried_out).protocol == "lenet-12-8 on npz (images.npz), 2 epochs, 1–2 of 2 trials"


def test_trials_that_finish_while_the_report_is_written_are_not_in_it(carried_out, tmp_path, monkeypatch):
    folder = StudyFolder(tmp_path / "study")
    shutil.copytree(carried_out.path, folder.path)
    late = folder.runs / "random-at-0.8-trial-1/result.json"
    content = late.read_bytes()
    late.unlink()

    def replayed_late(*arguments):
        late.write_bytes(content)
        return topology_history_of(*arguments)

    monkeypatch.setattr("sparsecore.study.report.results.topology_history_of", replayed_late)
    found = read_study_results(folder)
    assert {trial.name for trial in found.missing} == {"random-at-0.8-trial-1", "random-at-0.6-trial-0"}
    assert len(found.accuracies) == len(found.histories) == 14
    assert len(accuracy_figure(found).table.rows) == 14


def test_every_title_on_the_page_names_model_images_length_and_trials(page):
    outline = Outline(page)
    for text in ("Does <it> work?", "lenet-12-8 on npz (images.npz), 2 epochs", "training.batch_size 16"):
        assert text in outline.text
    assert "The authors have published no trials of lenet-12-8 on npz (images.npz)." in outline.text


@pytest.mark.parametrize("figure", ["bars", "sweep", "sparsities"])
def test_every_figure_has_labelled_axes_with_units(carried_out, figure):
    results = read_study_results(carried_out)
    if figure == "sweep":
        results = attrs.evolve(results, study=placed(results.study), rows=[moved(row) for row in results.rows])
    results = attrs.evolve(results, study=attrs.evolve(results.study, figure=figure))
    charts = [
        accuracy_figure(results),
        *density_heat_maps(results),
        *density_lines(results),
        learning_rate_figure(results),
        overlap_figure(results),
        explored_figure(results),
        final_sparsity_figure(results),
    ]
    assert len({chart.name for chart in charts if chart.panels and chart.table.rows}) == 9
    for chart in charts:
        for panel in chart.panels:
            assert panel.x.label
            assert panel.y.label or panel.y.categories
            assert panel.readings.rows


def test_arms_have_one_colour_in_all_figures_and_tables(carried_out, page):
    results = read_study_results(carried_out)
    for chart in (learning_rate_figure(results), overlap_figure(results), final_sparsity_figure(results)):
        for name, style in chart.legend:
            assert style == results.styles[name.split(", ")[0]]
    for name, style in results.styles.items():
        assert f'<span class="swatch {style.colour.name}"></span>{escape(name)}' in page


def test_the_csv_files_have_the_accuracies_and_the_learning_rates_of_the_logs(carried_out, page):
    head, *rows = csv_of(page, "accuracy")
    assert head == ["arm", "sparsity", "fraction", "trial", "test_accuracy"]
    assert len(rows) == 15
    for arm, sparsity, fraction, trial, accuracy in rows:
        run = carried_out.runs / f"{arm}-at-{sparsity}-trial-{trial}/result.json"
        assert (fraction, float(accuracy)) == ("", json.loads(run.read_text())["test_accuracy"])
    histories = json.loads(carried_out.results.read_text())["topology_histories"]
    for name in ("explored", "overlap"):
        last = {(row[0], row[1]): row for row in csv_of(page, name)[1:]}["dpr", "0.8"]  # at the end
        ends = [histories[f"dpr-at-0.8-trial-{trial}"]["snapshots"][-1][name] for trial in range(2)]
        assert [float(one) for one in last[3:]] == pytest.approx([fmean(ends), min(ends), max(ends)])
    for arm, epoch, rate in csv_of(page, "rate")[1:]:
        lines = (carried_out.runs / f"{arm}-at-0.8-trial-0/metrics.jsonl").read_text().splitlines()
        assert json.loads(lines[int(epoch) - 1])["learning_rate"] == float(rate)


def test_what_was_found_comes_before_the_figures(page):
    [found] = re.findall(r'<ul class="findings">(.*?)</ul>', page, re.DOTALL)
    assert page.index(found) < page.index("<figure")
    assert "Sparsity 0.8: <b>" in found
    assert "of 4 tests support their hypothesis, " in found


def placed(study):
    return attrs.evolve(
        study, arms=[attrs.evolve(arm, fraction=0.5) if arm.name == "dpr" else arm for arm in study.arms]
    )


def moved(row):
    arm = row.cell.arm
    return attrs.evolve(
        row, cell=attrs.evolve(row.cell, arm=attrs.evolve(arm, fraction=0.5 if arm.name == "dpr" else None))
    )


def test_bars_have_the_length_of_the_means_and_the_colour_of_their_arm(carried_out):
    results = read_study_results(carried_out)
    for panel, sparsity in zip(accuracy_figure(results).panels, (0.8, 0.6), strict=True):
        bars = [mark for mark in panel.marks if isinstance(mark, Bar)]
        rows = list(results.at(sparsity))
        assert [bar.value for bar in bars] == pytest.approx([fmean(row.accuracies) for row in rows])
        bottom, top = panel.x.low, panel.x.high
        trials = [accuracy for row in rows for accuracy in row.accuracies]
        assert bottom < min(trials)
        assert top >= max(trials)
        assert not bottom or min(trials) - bottom < max(1, max(trials) - min(trials))  # no other panel's trials
        assert f"begins at {bottom:g}" in panel.x.label or not bottom
        assert [bar.style for bar in bars] == [results.style_of(row.cell.arm) for row in rows]


def test_density_lines_follow_the_active_positions_in_the_logs(carried_out):
    results = read_study_results(carried_out)
    charts = list(density_lines(results))
    assert [chart.name for chart in charts] == ["density-at-0-8", "density-at-0-6"]
    runs = [carried_out.run(each) for each in results.histories if (each.arm, each.sparsity) == ("dpr", 0.8)]
    start = [json.loads(run.tensors.read_text())["tensors"] for run in runs]
    lines = charts[0].panels[0].marks
    assert len(lines) == len(start[0])
    for number, line in enumerate(lines):
        size = prod(start[0][number]["shape"])
        assert line.points[0][1] == pytest.approx(100 * fmean(each[number]["active"] for each in start) / size)
        end = [100 * replayed_counts(run)[start[0][number]["name"]] / size for run in runs]
        assert line.points[-1][1] == pytest.approx(fmean(end))


def replayed_counts(run):
    """Active weights of each tensor after the last update, counted from the lines of the log."""
    counts = {tensor["name"]: tensor["active"] for tensor in json.loads(run.tensors.read_text())["tensors"]}
    for line in map(json.loads, run.reallocations.read_text().splitlines()):
        for name in counts:
            counts[name] += line["grown"].get(name, 0) - line["pruned"].get(name, 0)
    return counts


def test_learning_rates_of_every_arm_are_drawn_as_logged(carried_out):
    results = read_study_results(carried_out)
    chart = learning_rate_figure(results)
    [name] = [name for name, _ in chart.legend]  # one line, as all have the same
    assert name == ", ".join(arm.title for arm in results.study.arms)
    [line] = chart.panels[0].marks
    for arm in results.study.arms:
        lines = (carried_out.runs / f"{arm.name}-at-0.8-trial-0/metrics.jsonl").read_text().splitlines()
        logged = [(line["epoch"], line["learning_rate"]) for line in map(json.loads, lines)]
        assert line.marked == logged


def test_the_page_and_results_json_have_every_hypothesis_at_every_sparsity(carried_out, page):
    rows = [row for row in rows_of(page) if " > " in row[0]]
    found = json.loads(carried_out.results.read_text())["hypotheses"]
    assert [(one["better"], one["worse"], one["sparsity"]) for one in found] == [
        ("dpr", worse, sparsity) for worse in ("again", "random") for sparsity in (0.8, 0.6)
    ]
    verdicts = {None: "not testable yet", True: "supported", False: "not supported"}
    titles = {arm.name: arm.title for arm in carried_out.read().arms}
    for row, one in zip(rows, found, strict=True):
        assert row[:2] == [f"DPR > {titles[one['worse']]}", f"{one['sparsity']:g}"]
        assert row[-1] == verdicts[one["supported"]]
        if one["p"] is not None:
            assert row[2:6] == [f"{one[key]:{form}}" for key, form in FORMS.items()]
    assert "over all 4 tests" in Outline(page).text
    assert found[-1]["supported"] is None  # a trial is missing


FORMS = {"difference": "+.2f", "t": "+.2f", "p": ".2g", "corrected_p": ".2g"}


def test_duration_and_machine_of_all_trials_are_on_the_page(carried_out, page):
    efforts = [json.loads(path.read_text()) for path in carried_out.runs.glob("*/seconds.json")]
    text = Outline(page).text
    assert efforts[0]["machine"] in text
    finished = [path for path in carried_out.runs.glob("*/seconds.json") if (path.parent / "result.json").exists()]
    total = sum(json.loads(path.read_text())["seconds"] for path in finished)
    assert f"{total:,.1f} s in {len(finished)} trials" in text


@pytest.mark.parametrize("name", ["rate", "density-at-0-8"])
def test_learning_rates_and_densities_show_values_under_the_pointer(carried_out, page, name):
    panel = data_of(page, name)[0]
    assert all(len(row["texts"]) == len(panel["at"]) == len(row["places"]) <= MAX_POINTS for row in panel["rows"])
    titles = re.findall(r"<title>(.*?)</title>", (carried_out.figures / f"{name}.svg").read_text())
    arms = re.escape(", ".join(arm.title for arm in carried_out.read().arms))
    expected = rf"{arms}: [\d.e-]+ at epoch \d+" if name == "rate" else r"\S+: [\d.]+ % at epoch [\d.]+"
    assert titles
    assert all(re.fullmatch(expected, unescape(title)) for title in titles)


def test_results_json_holds_the_numbers_and_figures_are_in_the_same_folder(carried_out):
    results = json.loads(carried_out.results.read_text())
    assert results["missing"] == ["random-at-0.6-trial-0"]
    assert [cell["wanted"] - len(cell["accuracies"]) for cell in results["cells"]] == [0] * 7 + [1]
    assert len(results["topology_histories"]) == 15
    files = {path.name for path in carried_out.figures.iterdir()}
    densities = [f"{kind}-at-0-{tenths}" for kind in ("active", "density") for tenths in (8, 6)]
    figures = ("accuracy", *densities, "overlap", "explored", "final", "rate")
    assert files == {f"{name}.{ending}" for name in figures for ending in ("svg", "png")}
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in carried_out.figures.glob("*.png"))


@pytest.mark.slow
def test_the_same_files_give_the_same_bytes_by_both_commands(carried_out, page, capsys):
    commands(["report", str(carried_out.path)], standalone_mode=False)
    assert capsys.readouterr().out.strip() == str(carried_out.report)
    assert carried_out.report.read_text(encoding="utf-8") == page


def test_the_page_of_a_study_that_has_not_started_says_so(tmp_path, carried_out):
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


def test_a_title_with_dollar_signs_appears_literally_in_figures(carried_out):
    results = read_study_results(carried_out)
    chart = attrs.evolve(learning_rate_figure(results), title="does $x_{ cost $ 5?")
    assert "does $x_{ cost $ 5?" in unescape(draw_chart(chart, results.protocol).svg)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"test_accuracy": "high", "seconds": 1}'])
def test_an_invalid_result_raises_one_error_sentence_naming_its_trial(tmp_path, content):
    folder = written_study(tmp_path, lambda _: 90.0)
    trial = trials_of(folder.read())[3]
    folder.run(trial).result.write_text(content)
    with pytest.raises(InputError, match=rf"the result of the trial {trial.name} cannot be read"):
        folder.result(trial)


@pytest.mark.slow
def test_an_unwritable_report_raises_one_error_sentence(carried_out, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("sparsecore.study.report.write_whole", full)
    with pytest.raises(InputError, match=r"the report of the study .* cannot be written: No space left on device"):
        write_study_report(carried_out)

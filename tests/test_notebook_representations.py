"""What notebooks show of trainings and results: complete, escaped, readable on light and on dark pages; and plots."""

import re
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from command_line import SMALL, small_images
from command_line import train as train_run
from notebook_examples import Page, assert_takes_the_colours_of_its_page
from observer_examples import started
from sparsify_examples import train
from torch import nn

from sparsecore.engine.topology import Layout, Topology
from sparsecore.errors import InputError
from sparsecore.extras import MissingPackageError
from sparsecore.notebook.html import UpdateTotals, update_chart
from sparsecore.notebook.plots import mask_picture
from sparsecore.report import read_run
from sparsecore.run.folder import RunFolder
from sparsecore.run.logs import Result, read_record
from sparsecore_numpy import NumpyArrays
from sparsecore_torch import sparsify

SCRIPT = r"_<script>alert('x')&$\frac$"


def test_a_training_shows_its_summary_and_updates():
    model, optimizer, training = started()
    before = Page(training._repr_html_())
    assert before.bars == 0
    train(model, optimizer, range(9))
    page, summary = Page(training._repr_html_()), training.summary()
    head, *rows = page.rows
    assert head[:5] == ["tensor", "shape", "weights", "density at start", "density now"]
    assert [tuple(row[:5]) for row in rows] == summary.rows()
    assert page.bars == 2 * training.updates == 8  # what grew and what was pruned
    text = " ".join(page.text)
    latest = training.metrics()
    assert f"step 9, 4 updates, sparsity {training.sparsity:.4f}" in text
    assert f"pruned {latest['pruned']:g}, grown {latest['grown']:g}, overlap {latest['overlap']:.6g}" in text
    assert "not included: 0.bias, 2.bias, 4.bias" in text
    assert_takes_the_colours_of_its_page(page)
    assert summary._repr_html_() == training._repr_html_()


def test_names_are_escaped():
    layers = OrderedDict({SCRIPT: nn.Linear(6, 6), "b": nn.Linear(6, 6), "c": nn.Linear(6, 3)})
    model = nn.Sequential(layers)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    training = sparsify(model, optimizer, strategy="set", sparsity=0.5, include="*weight")
    page = Page(training._repr_html_())
    assert training.plot()._repr_png_()  # nor is it a formula
    assert "script" not in page.elements
    assert f"{SCRIPT}.weight" in [row[0] for row in page.rows]


def test_a_training_that_has_ended_and_one_whose_parameters_were_replaced_still_show_something():
    model, _, training = started()
    model[0].weight = nn.Parameter(torch.zeros(12, 6))
    assert "0.weight" in training._repr_html_()
    _, _, ended = started()
    ended.squash()
    assert Page(ended._repr_html_()).text == ["<SparseTraining, ended>", "\n"]


@given(st.lists(st.integers(0, 1000), max_size=700))
@settings(max_examples=20, deadline=None)
def test_a_chart_of_many_updates_has_few_bars_that_show_all_weights(counts):
    html = update_chart([UpdateTotals(step, count, count + 1) for step, count in enumerate(counts)])
    shown = [
        tuple(map(int, pair))
        for pair in re.findall(r"(\d+) pruned, (\d+) grown", html.replace(",", "").replace("pruned ", "pruned, "))
    ]
    assert len(shown) <= 120
    assert np.asarray(shown).sum(0).tolist() == ([sum(counts), sum(counts) + len(counts)] if counts else 0.0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    images = small_images(folder / "small.npz")
    settings_ = ("--strategy", "dpr", "--set", "strategy.schedule.steps=2", "--set", "strategy.target=8")
    train_run(*SMALL, "--data-dir", images, *settings_, "--out", folder / "run")
    return folder / "run"


@pytest.mark.usefixtures("quick_runs")
def test_results_of_runs_show_their_numbers_tensors_and_updates(run):
    record = read_run(run)
    page = Page(record._repr_html_())
    result = read_record(RunFolder(run).result, Result)
    numbers = dict(row for row in page.rows if len(row) == 2)
    assert numbers["test accuracy"] == f"{result.test_accuracy:.2%}"
    assert numbers["updates"] == str(result.reallocations)
    tensors = [row for row in page.rows if len(row) == 6][1:]
    assert [row[0] for row in tensors] == [*(tensor.name for tensor in record.tensors), "all"]
    assert tensors[-1][2] == f"{result.sparse_parameters:,}"
    assert page.bars == 2 * result.reallocations
    assert_takes_the_colours_of_its_page(page)
    assert numbers == dict(Page(result._repr_html_()).rows) | {key: numbers[key] for key in numbers if "epoch" in key}


def test_a_plot_has_the_sparsity_over_the_updates_what_moved_and_the_masks_also_after_resuming(tmp_path):
    model, optimizer, training = started()
    assert training.plot("0.*") is not None  # before the first update
    train(model, optimizer, range(5))
    torch.save([part.state_dict() for part in (model, optimizer, training)], tmp_path / "at.pt")
    resumed = started()
    for part, saved in zip(resumed, torch.load(tmp_path / "at.pt"), strict=True):
        part.load_state_dict(saved)
    sparsities = {name: [0.75] for name in training.topology.layout.names}
    sparsities = {name: [1 - count / size] for name, count, size in rows(started()[2].topology)}
    seen = started()
    for step in range(9):
        train(*seen[:2], [step])
        if step % 2:
            for name, count, size in rows(seen[2].topology):
                sparsities[name].append(1 - count / size)
    train(*resumed[:2], range(5, 9))
    moves, lines, *masks = resumed[2].plot().axes[:2] + resumed[2].plot().axes[3:6]
    for line in lines.get_lines():
        assert list(line.get_xdata()) == [0, 2, 4, 6, 8]
        np.testing.assert_allclose(line.get_ydata(), sparsities[line.get_label()], rtol=0, atol=1e-12)
    assert moves.images[0].get_array().shape == (3, 4)
    for axes, (name, mask) in zip(masks, resumed[2].masks().items(), strict=True):
        assert axes.get_title() == name
        np.testing.assert_array_equal(axes.images[0].get_array(), mask.numpy())
    assert resumed[2].plot("2.*")._repr_png_().startswith(b"\x89PNG")


def rows(topology):
    return zip(topology.layout.names, topology.counts, topology.layout.sizes, strict=True)


def test_a_plot_of_no_tensor_and_one_without_matplotlib_are_refused(monkeypatch):
    _, _, training = started()
    with pytest.raises(InputError, match=r"no sparse tensor named 'encoder.*0\.weight"):
        training.plot("encoder.*")
    monkeypatch.setattr("sparsecore.extras._is_installed", lambda name: name != "matplotlib")
    with pytest.raises(MissingPackageError, match="a plot needs matplotlib"):
        training.plot()


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 600), st.integers(1, 600), st.integers(0, 2**32 - 1))
def test_the_picture_of_a_mask_has_the_mean_density_of_each_patch(height, width, seed):
    mask = np.random.default_rng(seed).random((height, width)) < 0.1
    layout = Layout.of({"other": (3, 3), "mask": (height, width)})
    positions = 9 + np.flatnonzero(mask)
    picture = mask_picture(Topology.of(layout, positions.astype(np.int32), NumpyArrays()), "mask")
    assert picture.shape == (min(height, 256), min(width, 256))
    row = [np.arange(height) * picture.shape[0] // height == pixel for pixel in range(picture.shape[0])]
    column = [np.arange(width) * picture.shape[1] // width == pixel for pixel in range(picture.shape[1])]
    for y, x in np.random.default_rng(seed).integers(0, picture.shape, (10, 2)):
        assert picture[y, x] == mask[row[y]][:, column[x]].mean()

"""A start at another sparsity than requested is reported, except for rounding or gradual pruning."""

import re
import warnings

import attrs
import numpy as np
import pytest
from command_line import SMALL, small_images, sparsecore

from sparsecore import Engine, Layout, Topology, hookimpl
from sparsecore.engine.units import as_units
from sparsecore.errors import SparsityWarning
from sparsecore.plugins.discovery import load
from sparsecore_numpy import NumpyArrays
from sparsecore_strategies.srigl import StructuredRigL

LAYOUT = Layout.of({"first": (30, 64), "second": (8, 5, 3, 3), "tiny": (2, 3)})


@attrs.frozen(eq=False)
class Half:
    """Every second position, whatever was asked for."""

    @hookimpl
    def initial_topology(self, layout, arrays):
        positions = np.arange(0, layout.size, 2, dtype=layout.position_dtype)
        return Topology.of(layout, arrays.from_numpy(positions), arrays)


def started(strategies, sparsity, layout=LAYOUT, **options):
    engine = Engine(layout, strategies, arrays=NumpyArrays(), **options)
    state = engine.start(sparsity)
    engine.warn_of_other_sparsity(state.topology, sparsity)
    return state


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.8, 0.98])
@pytest.mark.parametrize("strategy", ["set", "static", "rigl", "gmp", "granet", "soft-deepr", "erk-start"])
def test_a_start_that_differs_by_rounding_or_by_design_causes_no_warning(strategy, sparsity):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        started({strategy: load("strategy", strategy)()}, sparsity)
        started({strategy: load("strategy", strategy)()}, sparsity, Layout.of({f"{n}": (2, 3) for n in range(40)}))


def test_blocks_may_round_to_whole_blocks_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        started({"static": load("strategy", "static")()}, 0.87, Layout.of({"one": (16, 16)}), units=as_units("8x8"))


def test_srigl_warns_when_group_rounding_changes_the_sparsity():
    layout = Layout.of({"one": (100, 64)})
    with pytest.warns(SparsityWarning, match=r"0\.8\b.*'srigl'.*0\.8125.*1,200 weights in place of 1,280"):
        state = started({"srigl": StructuredRigL(start="uniform")}, 0.8, layout)
    assert state.topology.size == 100 * 12
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        started({"srigl": StructuredRigL(start="uniform")}, 0.75, layout)  # 16 of 64 each


def test_the_warning_names_the_strategy_that_decides_the_start():
    with pytest.warns(SparsityWarning, match=r"0\.9\b.*'half'.*0\.5000"):
        started({"set": load("strategy", "set")(), "half": Half()}, 0.9)


def test_sparsify_warns_at_the_callers_line_before_anything_changes():
    torch = pytest.importorskip("torch")
    from sparsecore_torch import sparsify

    model = torch.nn.Sequential(torch.nn.Linear(64, 100), torch.nn.ReLU(), torch.nn.Linear(100, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.warns(SparsityWarning) as said:
        sparsify(model, optimizer, strategy="srigl", sparsity=0.8, total_steps=100).squash()
    assert [one.filename for one in said] == [__file__]
    before = model[0].weight.detach().clone()
    with warnings.catch_warnings():
        warnings.simplefilter("error", SparsityWarning)
        warnings.filterwarnings("ignore", category=UserWarning, message=".*exact zeros")
        with pytest.raises(SparsityWarning, match="'Half'"):
            sparsify(model, optimizer, strategy=Half(), sparsity=0.8)
    assert torch.equal(model[0].weight, before)
    assert sparsify(model, optimizer, strategy="static", sparsity=0.0).sparsity == 0.0


def test_a_run_warns_on_standard_error(tmp_path):
    images = small_images(tmp_path / "images.npz")
    where = ("--set", f"data.file={images}", "--out", tmp_path / "run")
    ended = sparsecore("train", *SMALL, *where, "--backend", "numpy", "--strategy", "srigl", "--epochs", "1")
    assert re.search(r"warning: .*0\.8\b.*'srigl'.*0\.8", " ".join(ended.stderr.split()))

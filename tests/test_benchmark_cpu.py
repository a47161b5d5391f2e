"""The pieces of the CPU backend's benchmarks: densities that are kept, kernels that are watched, where lines cross."""

import importlib
from pathlib import Path

import numpy as np
import pytest
from command_line import SMALL, small_images, train

from sparsecore.data.images import Batch
from sparsecore.engine.topology import Layout
from sparsecore.errors import InputError
from sparsecore.run.folder import RunFolder
from sparsecore.run.replay import replay
from sparsecore_numpy import NumpyArrays

pytest.importorskip("sparsecore_cpu._kernels")

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
LAYOUT = Layout.of({"first": (10, 10), "second": (3, 100)})


def _imported(name):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        return importlib.import_module(name)


@pytest.fixture(scope="module")
def densities():
    return _imported("densities")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    settings = ("backend.name=numpy", "strategy.dpr.schedule={steps=4}", "strategy.dpr.target=5")
    chosen = [part for setting in settings for part in ("--set", setting)]
    images = small_images(folder / "images.npz")
    result = train(*SMALL, "--strategy", "dpr", "--data-dir", images, *chosen, "--out", folder / "run")
    assert result["reallocations"] > 0
    return folder / "run"


def test_a_topology_has_as_many_weights_in_each_tensor_as_the_densities_say(densities):
    kept = densities.Densities("dpr", 0.9, "a run", {"first": 0.37, "second": 0.01})
    topology = kept.topology(LAYOUT, NumpyArrays())
    assert topology.counts.tolist() == [37, 3]
    assert len(set(topology.positions.tolist())) == 40


def test_the_densities_of_another_network_are_refused(densities):
    kept = densities.Densities("dpr", 0.9, "a run", {"first": 0.37})
    with pytest.raises(InputError, match="not of a network with the tensors"):
        kept.topology(LAYOUT, NumpyArrays())


def test_the_densities_of_a_run_are_those_of_its_last_topology_and_survive_the_file(densities, trained, tmp_path):
    densities.Densities.of_run(RunFolder(trained)).write(tmp_path / "some" / "file.json")
    kept = densities.Densities.read(tmp_path / "some" / "file.json")
    *_, last = replay(RunFolder(trained))
    assert [round(share * size) for share, size in zip(kept.tensors.values(), last.layout.sizes, strict=True)] == list(
        last.counts
    )
    assert kept.name == "dpr"


def test_a_file_that_has_no_densities_is_refused(densities, tmp_path):
    (tmp_path / "file.json").write_text('{"tensors": {}}')
    with pytest.raises(InputError, match="no file of densities"):
        densities.Densities.read(tmp_path / "file.json")


def test_counted_multiply_adds_of_kernels_follow_from_weights_and_pixels():
    networks, calls = _imported("cpu_networks"), _imported("kernel_calls")
    watched = calls.Calls(threads=1)
    machine, images = watched.machine(), 2 * watched.attribute("lanes")
    from sparsecore_models.wrn import WideResNet

    model, shape = WideResNet(10, 1), (8, 8, 3)
    layout = Layout.of({p.name: p.shape for p in model.parameters(shape, 10) if p.sparse})
    topology = _imported("networks").topology_of(layout, 0.9, NumpyArrays())
    network = networks.learner_on(topology, machine, shape, model, examples=64)
    with watched.watching():
        network.train(Batch(np.arange(images), np.zeros((images, 2), int), np.zeros(images, bool), 0), 0.1)

    forward = sum(call.multiply_adds for call in watched.noted if call.kernel == calls.FORWARD)
    expected = 0
    for parameter in model.parameters(shape, 10):
        if len(parameter.shape) in {2, 4}:
            group = parameter.name.partition(".")[0]
            # a group halves the side of the images, from the second one on
            pixels = {"first": 64, "group1": 64, "group2": 16, "group3": 4, "classifier": 1}[group]
            sparse = topology.layout.names.index(parameter.name) if parameter.sparse else None
            weights = np.prod(parameter.shape) if sparse is None else topology.counts[sparse]
            expected += int(weights) * pixels * images
    assert forward == expected


def test_every_kernel_is_measured():
    from sparsecore_cpu import _kernels

    cases = _imported("kernel_cases")
    layers = [cases.Layer(8, 4, 4), cases.Layer(4, 8, 2, stride=2, density=1.0)]
    made = list(cases.Cases(_kernels, images=3, threads=2).all(layers, [(4, 3)]))
    for case in made:
        case.call()
        assert case.bytes > 0
    kernels = {name for name in dir(_kernels.Kernels) if not name.startswith("_")} - {"name", "lanes"}
    linear = {f"LinearKernels.{name}" for name in dir(_kernels.LinearKernels) if not name.startswith("_")}
    linear -= {f"LinearKernels.{name}" for name in ("rounded", "multiplies_blocks")}
    functions = {"RowConvolution", "copy_pixels", "gather", "scatter", "sort_by_bucket"}
    assert {case.kernel for case in made} == kernels | linear | functions


def test_operations_are_counted_for_nonzero_weights_only():
    from sparsecore_cpu import _kernels

    cases = _imported("kernel_cases")
    made = cases.Cases(_kernels, images=5, threads=1).convolutions(cases.Layer(8, 4, 6, density=1.0))
    flops = {case.kernel: case.flops for case in made}
    assert flops["convolve"] == flops["weight_gradient"] == flops["convolve_masked"] == 2 * 8 * 4 * 9 * 36 * 5
    assert flops["backward"] == 2 * flops["convolve"]


def test_break_even_is_interpolated_between_the_densities_whose_ratios_enclose_one():
    pytest.importorskip("torch")
    step = _imported("cpu_step")
    topologies = {f"uniform {s}": _Sparse(s) for s in (0.3, 0.5, 0.9)}
    ratios = {"uniform 0.3": 1.4, "uniform 0.5": 0.9, "uniform 0.9": 0.3}
    assert step._break_even(ratios, topologies) == pytest.approx(0.54)
    assert step._break_even(ratios | {"uniform 0.3": 0.99}, topologies) is None


class _Sparse:
    def __init__(self, sparsity):
        self.sparsity = sparsity

"""Every way of training measures the norms of the inputs that strategies ask for, as their definition says."""

import attrs
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from command_line import SMALL, small_images, sparsecore
from model_examples import MobileNetwork
from module_examples import train, write_networks
from torch import nn
from torch.nn import functional

from sparsecore.errors import InputError
from sparsecore.plugins.discovery import load
from sparsecore.strategy import Every, hookimpl
from sparsecore.testing.backend_promises.training_scenarios import (
    CLASSES,
    SHAPE,
    SmallNetwork,
    TrainingScenario,
    images,
    to_host,
)
from sparsecore_strategies.set import SparseEvolution
from sparsecore_strategies.wanda_drop import WandaDrop
from sparsecore_torch import sparsify


class Recorded:
    """The operations of models by functions of torch in double precision, which note the norms of what they read."""

    def __init__(self):
        self.norms = {}

    def conv2d(self, x, weight, *, stride=1, padding=0):
        name, tensor = weight
        self.norms[name] = x.square().sum((0, 2, 3)).sqrt()
        return functional.conv2d(x, tensor, None, stride, padding)

    def linear(self, x, weight, bias=None):
        name, tensor = weight
        self.norms[name] = x.square().sum(0).sqrt()
        return functional.linear(x, tensor, None if bias is None else bias[1])

    def batch_norm(self, x, scale, shift, *_):
        return functional.batch_norm(x, None, None, scale[1], shift[1], training=True)

    def relu(self, x):
        return x.clamp(min=0)

    def global_average_pool(self, x):
        return x.mean((2, 3))

    def add(self, x, y):
        return x + y

    def flatten(self, x):
        return x.permute(0, 2, 3, 1).flatten(1)


def expected_norms(scenario):
    backend = load("backend", "numpy")(dtype="float64")
    topology = scenario.start(backend).topology
    values = scenario.values(topology)
    handles = {}
    for parameter in scenario.network.parameters(SHAPE, CLASSES):
        tensor = np.zeros(parameter.shape)
        if parameter.sparse:
            tensor.ravel()[topology.local(parameter.name)] = values[topology.slots(parameter.name)]
        handles[parameter.name] = (parameter.name, torch.tensor(tensor))
    data = images()
    pictures = (data.train.images[scenario.batch().rows] - data.mean) / data.std
    operations = Recorded()
    scenario.network.forward(operations, handles, torch.tensor(pictures).permute(0, 3, 1, 2))
    return operations.norms


@pytest.mark.parametrize("name", ["numpy", "torch", "cpu", pytest.param("jax", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "network",
    [SmallNetwork("batch-norm"), SmallNetwork("conv2d", stride=2, padding=0), SmallNetwork("add")],
    ids=lambda network: network.operation,
)
def test_backends_measure_inputs_over_examples_and_pixels(name, network):
    if name == "cpu":
        pytest.importorskip("sparsecore_cpu._kernels")
    scenario = TrainingScenario(network, seed=3)
    backend = load("backend", name)() if name == "cpu" else load("backend", name)(dtype="float64")
    expected, dense = expected_norms(scenario), (False, True)
    for is_dense in dense:
        learner = scenario.learner(backend)
        norms = learner.measure_inputs()
        learner.backward(scenario.batch(), dense=is_dense)
        for tensor, reference in expected.items():
            np.testing.assert_allclose(to_host(backend, norms(tensor)), reference, rtol=1e-4 if name == "cpu" else 1e-9)
    assert len(expected) > 2


def test_measuring_changes_no_gradient_and_ends_with_the_pass():
    scenario = TrainingScenario(SmallNetwork("batch-norm"))
    for name in ("numpy", "torch"):
        backend = load("backend", name)(dtype="float64")
        plain, measuring = scenario.learner(backend), scenario.learner(backend)
        norms = measuring.measure_inputs()
        for learner in (plain, measuring):
            learner.backward(scenario.batch(0))
        np.testing.assert_allclose(*(to_host(backend, each.weight_gradient) for each in (plain, measuring)), rtol=1e-9)
        first = to_host(backend, norms("last"))
        measuring.backward(scenario.batch(1))
        assert np.array_equal(to_host(backend, norms("last")), first)
        with pytest.raises(InputError, match=r"'images\.scale'"):
            norms("images.scale")


@attrs.frozen(eq=False)
class Captured:
    """Prunes nothing, and notes the norms that it is given at every second step."""

    norms: list = attrs.field(factory=list)

    @hookimpl
    def update_due(self, clock):
        return clock.step % 2 == 0

    @hookimpl
    def prune(self, topology, input_norms):
        self.norms.append({name: input_norms(name).clone() for name in topology.layout.names})
        return topology.all()


@pytest.mark.parametrize("storage", ["masked", "compact"])
def test_sparsify_measures_the_inputs_of_all_passes_of_the_step_before_an_update(storage):
    torch.manual_seed(0)
    model, captured = MobileNetwork(), Captured()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    sparsify(
        model, optimizer, strategy=captured, sparsity=0.5, include="*.weight", exclude=nn.BatchNorm2d, storage=storage
    )
    squares, reference = {}, {}
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)}

    def note(name, given):
        if torch.is_grad_enabled():
            x = given[0].detach().double()
            squares[name] = squares.get(name, 0) + (x**2).sum(0 if x.ndim == 2 else (0, 2, 3))

    for name, layer in layers.items():
        layer.register_forward_hook(lambda _, given, __, name=name: note(name, given))
    for step in range(1, 5):
        squares.clear()
        optimizer.zero_grad()
        for _ in range(2):
            functional.cross_entropy(model(torch.randn(4, 3, 8, 8)), torch.arange(4)).backward()
        with torch.no_grad():
            model(torch.randn(2, 3, 8, 8))
        reference[step] = {f"{name}.weight": square.sqrt() for name, square in squares.items()}
        optimizer.step()
    assert len(captured.norms) == 2
    for norms, step in zip(captured.norms, (2, 4), strict=True):
        assert set(norms) == set(reference[step])
        assert len(norms["project.0.weight"]) == 12  # two groups of six inputs
        for name, got in norms.items():
            torch.testing.assert_close(got.double(), reference[step][name], rtol=1e-5, atol=1e-6)


def test_sparsify_trains_with_wanda_drop_and_refuses_what_it_cannot_measure():
    strategies = [SparseEvolution(schedule=Every(steps=1)), WandaDrop()]

    class Bypassing(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 4)

        def forward(self, x):
            return functional.linear(functional.linear(x, self.first.weight).relu(), self.last.weight)

    def begun(model, **options):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        return optimizer, sparsify(model, optimizer, strategy=strategies, sparsity=0.5, include="*weight", **options)

    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
    optimizer, training = begun(model)
    for _ in range(3):
        model(torch.randn(5, 6)).sum().backward()
        optimizer.step()
    assert training.updates == 3
    optimizer, _ = begun(Bypassing())
    bypassing = Bypassing()
    optimizer, _ = begun(bypassing)
    bypassing(torch.randn(5, 6)).sum().backward()
    with pytest.raises(InputError, match=r"'first\.weight' have not been seen"):
        optimizer.step()
    with pytest.raises(InputError, match=r"'0\.weight' is 'weight' of Embedding"):
        begun(nn.Sequential(nn.Embedding(9, 6), nn.Linear(6, 4)))
    pytest.importorskip("sparsecore_cpu._kernels")
    with pytest.raises(InputError, match="runs through the sparse kernels"):
        begun(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)), kernels="sparse")


@pytest.mark.parametrize("name", ["numpy", "torch", "cpu", pytest.param("jax", marks=pytest.mark.slow)])
@pytest.mark.usefixtures("quick_runs")
def test_a_run_prunes_by_the_norms(name, tmp_path):
    if name == "cpu":
        pytest.importorskip("sparsecore_cpu._kernels")
    data = small_images(tmp_path / "small.npz")
    strategies = ("--strategy", "set", "--strategy", "wanda-drop")
    done = sparsecore("train", *SMALL, *strategies, "--backend", name, "--set", f"data.file={data}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("quick_runs")
def test_a_run_of_a_module_prunes_by_the_norms(tmp_path):
    write_networks(tmp_path)
    strategies = ("--strategy", "set", "--strategy", "wanda-drop")
    train(tmp_path, tmp_path / "run", "normed", *strategies, "--sparsity", "0.7")

"""Floating-point operations, against numbers that are worked out by hand and torch's own counter."""

import re

import pytest
from pages import code, read

torch = pytest.importorskip("torch")

from sparsify_examples import mlp, sgd, train
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from sparsecore.errors import InputError
from sparsecore.strategy import Every
from sparsecore_strategies.rigl import RigL
from sparsecore_strategies.snfs import SparseMomentum
from sparsecore_torch import sparsify

LINEAR = {"0.weight": 6 * 12, "2.weight": 12 * 10, "4.weight": 10 * 3}
BATCH = torch.randn(8, 6)


def counted(model, *inputs, **options):
    training = sparsify(model, sgd(model), **{"sparsity": 0.5, "strategy": "static", **options})
    return training, training.flops(*inputs)


@pytest.mark.parametrize("storage", ["masked", "compact"])
def test_a_pass_takes_two_operations_for_each_weight_and_vector(storage):
    training, flops = counted(mlp(), BATCH, storage=storage)
    active = dict(zip(training.topology.layout.names, training.topology.counts, strict=True))
    assert {one.name: one.inference_dense for one in flops.tensors} == {n: 2 * 8 * size for n, size in LINEAR.items()}
    assert {one.name: one.inference for one in flops.tensors} == {
        name: 2 * 8 * int(active.get(name, size)) for name, size in LINEAR.items()
    }
    assert flops.inference == sum(one.inference for one in flops.tensors) < flops.inference_dense
    assert flops.training == flops.training_dense == flops.steps == 0


class Network(nn.Module):
    """Grouped, strided, dilated and transposed convolutions, a layer that is used twice, attention and a GRU."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 8, 3, stride=2, groups=2)
        self.dilated = nn.Conv2d(8, 8, 2, dilation=2, padding=1)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.twice = nn.Linear(4, 4)
        self.encoder = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
        self.recurrent = nn.GRU(4, 6, batch_first=True)
        self.head = nn.Linear(6, 2)

    def forward(self, x):
        x = self.up(self.dilated(self.grouped(self.first(x))))
        x = self.twice(self.twice(x.flatten(2).mT)).relu()
        return self.head(self.recurrent(self.encoder(x))[0])


def test_layers_of_all_kinds_take_as_many_operations_as_torch_counts():
    torch.manual_seed(0)
    model, images = Network().train(), torch.randn(2, 3, 9, 9)
    with FlopCounterMode(display=False) as counter:
        model(images)
    expected = counter.get_flop_counts()["Global"]
    _, flops = counted(model, images)
    assert flops.inference_dense + flops.without_weights == sum(expected.values())
    of_tensors = {one.name: one.inference_dense for one in flops.tensors}
    pixels = 8 * 8
    assert of_tensors["twice.weight"] == 2 * 2 * 2 * pixels * 16
    assert of_tensors["up.weight"] == 2 * 2 * 16 * 8 * 4 * 4
    assert of_tensors["encoder.self_attn.in_proj_weight"] == 2 * 2 * pixels * 12 * 4
    assert of_tensors["recurrent.weight_hh_l0"] == 2 * 2 * pixels * 18 * 6
    assert flops.without_weights == 2 * 2 * 2 * pixels * pixels * 4
    assert model.training
    assert not any("hook" in key and value for module in model.modules() for key, value in vars(module).items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_recurrent_layers_use_their_weights_once_for_each_step_of_a_sequence(dtype):
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(4, 6, num_layers=2, bidirectional=True)
            self.head = nn.Linear(12, 2)

        def forward(self, x):
            return self.head(self.lstm(x)[0])

    _, flops = counted(Recurrent().to(dtype), torch.randn(5, 3, 4, dtype=dtype))
    sizes = {one.name: one.positions for one in flops.tensors}
    assert len(sizes) == 2 * 2 * 2 + 1
    assert {one.name: one.inference_dense for one in flops.tensors} == {n: 2 * 15 * size for n, size in sizes.items()}


def test_training_takes_thrice_a_pass_and_rigls_updates_a_dense_gradient():
    model = mlp()
    optimizer = sgd(model)
    strategy = RigL(schedule=Every(steps=3))
    training = sparsify(model, optimizer, strategy=strategy, sparsity=0.5, total_steps=10)
    train(model, optimizer, range(7))
    flops = training.flops(BATCH)
    dense = 2 * 8 * (LINEAR["0.weight"] + LINEAR["2.weight"])
    sparse = 2 * 8 * training.topology.size
    head = 3 * 2 * 8 * LINEAR["4.weight"]
    assert training.updates == 2
    assert flops.training == 5 * (3 * sparse + head) + 2 * (2 * sparse + dense + head)
    assert flops.training_dense == 7 * (3 * dense + head)
    assert f"{flops.training:.3g}" in str(flops)


def test_a_strategy_that_asks_for_dense_gradients_in_each_step_pays_in_each():
    model = mlp()
    optimizer = sgd(model)
    training = sparsify(model, optimizer, strategy=SparseMomentum(schedule=Every(steps=3)), sparsity=0.5, total_steps=9)
    train(model, optimizer, range(4))
    flops = training.flops(BATCH)
    one = next(one for one in flops.tensors if one.name == "4.weight")
    dense = 2 * 8 * (LINEAR["0.weight"] + LINEAR["2.weight"])
    assert flops.training - one.training == 4 * dense + 4 * 2 * 2 * 8 * training.topology.size


def test_steps_with_more_weights_count_more():
    model = mlp()
    optimizer = sgd(model)
    training = sparsify(model, optimizer, strategy="gmp", sparsity=0.8, total_steps=300)
    sums = 0
    for step in range(250):
        sums += training.topology.size
        train(model, optimizer, [step])
    flops = training.flops(BATCH)
    assert training.topology.sparsity > 0.5
    assert flops.training == 3 * 2 * 8 * (sums + 250 * LINEAR["4.weight"])


def test_a_resumed_training_counts_on_and_needs_no_batch():
    def made():
        model = mlp()
        optimizer = sgd(model)
        return model, optimizer, sparsify(model, optimizer, strategy="set", sparsity=0.5, steps_per_epoch=2)

    model, optimizer, training = made()
    with pytest.raises(InputError, match=r"training\.flops"):
        training.flops()
    train(model, optimizer, range(5))
    training.flops(BATCH)
    saved = training.state_dict()
    train(model, optimizer, range(5, 8))
    other, second, resumed = made()
    resumed.load_state_dict(saved)
    other.load_state_dict(model.state_dict())
    resumed.adopt()
    train(other, second, range(5, 8))
    assert resumed.flops().totals() == training.flops().totals()
    assert resumed.flops().steps == 8


@pytest.mark.parametrize(
    "damage",
    [
        {"sums": {"steps": 5}},
        {"sums": {"steps": 4, "weights": [1, 1], "dense_gradient_steps": 0, "dense_gradient_weights": [0, 0]}},
        {"sums": {"steps": 3, "weights": [1], "dense_gradient_steps": 0, "dense_gradient_weights": [0, 0]}},
        {"sums": {"steps": 3, "weights": [1, -1], "dense_gradient_steps": 0, "dense_gradient_weights": [0, 0]}},
        {"forward_pass": {"of_tensors": {"0.weight": -1}, "sizes": {"0.weight": 1}, "without_weights": 0}},
        {"forward_pass": {"of_tensors": {"0.weight": 1}, "sizes": {}, "without_weights": 0}},
        {"forward_pass": [1]},
    ],
)
def test_damaged_counts_in_a_state_dict_are_refused(damage):
    model = mlp()
    optimizer = sgd(model)
    training = sparsify(model, optimizer, strategy="static", sparsity=0.5)
    train(model, optimizer, range(3))
    saved = training.state_dict()
    with pytest.raises(InputError, match="damaged"):
        training.load_state_dict({**saved, "flops": {**saved["flops"], **damage}})
    with pytest.raises(InputError, match="damaged"):
        training.load_state_dict({**saved, "flops": torch.ones(1)})
    del saved["flops"], saved["checksums"]
    training.load_state_dict(saved)  # as older versions wrote it: what the first steps took is not known
    assert training.flops(BATCH).training is None
    assert "unknown" in str(training.flops())


def test_inputs_that_use_no_product_are_refused():
    model = mlp()
    training = sparsify(model, sgd(model), sparsity=0.5)
    model.forward = lambda x: x
    with pytest.raises(InputError, match="no linear layer"):
        training.flops(BATCH)


def test_the_page_shows_what_is_printed(capsys):
    torch.manual_seed(0)
    (block,) = code("docs/flops.md")
    exec(block, {})
    shown = re.search(r"^prints\n\n(.*?)\n\n^The batch", read("docs/flops.md"), re.DOTALL | re.MULTILINE)
    assert [line.strip() for line in capsys.readouterr().out.splitlines()] == [
        line.strip() for line in shown[1].splitlines()
    ]

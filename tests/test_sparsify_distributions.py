"""Start distributions by name, budgets, and multiplications that are counted on an example."""

import copy
from fractions import Fraction

import pytest

torch = pytest.importorskip("torch")

from sparsify_examples import convnet, mlp, sgd
from torch import nn

from sparsecore.engine.distributions import DISTRIBUTIONS
from sparsecore.engine.topology import Layout
from sparsecore.errors import InputError
from sparsecore_torch import sparsify
from sparsecore_torch.sparse_training.model.parameters import named_parameters
from sparsecore_torch.sparse_training.multiplications import multiplications_per_weight

IMAGES = torch.randn(2, 2, 9, 9)


def counts(training):
    return dict(zip(training.topology.layout.names, training.topology.counts.tolist(), strict=True))


def started(model=None, **options):
    model = model or mlp()
    return counts(sparsify(model, sgd(model), **options))


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("strategy", ["dpr", "set", "rigl"])
def test_a_distribution_replaces_that_of_the_strategy(name, strategy):
    layout = Layout.of({"0.weight": (12, 6), "2.weight": (10, 12)})
    expected = DISTRIBUTIONS[name](layout, 0.7)
    found = started(strategy=strategy, sparsity=0.7, distribution=name, total_steps=500, start="magnitude")
    assert list(found.values()) == expected.tolist()


@pytest.mark.parametrize("name", [*DISTRIBUTIONS, "flops"])
@pytest.mark.parametrize("budget", [3, 100, 230, 234])
def test_a_budget_is_the_number_of_weights(name, budget):
    model = convnet()
    options = {"example": IMAGES} if name == "flops" else {}
    found = started(model, budget=budget, distribution=name, include="*", exclude="8.*", **options)
    assert sum(found.values()) == budget


def test_a_budget_is_that_of_all_strategies_together():
    model = mlp()
    training = sparsify(
        model, sgd(model), strategy={"0.*": "set", "2.*": "dpr"}, budget=60, distribution="erk", steps_per_epoch=10
    )
    assert counts(training) == {"0.weight": 27, "2.weight": 33}  # 60 weights by 18 : 22
    assert training.sparsity == pytest.approx(1 - 60 / 192)


def test_each_sparsity_is_distributed_by_itself():
    model = convnet()
    training = sparsify(
        model, sgd(model), sparsity={"*": 0.5, "7.*": 0.9}, distribution="uniform", units="kernels", strategy="static"
    )
    assert training.topology.counts.tolist() == [24 // 2 * 9, 3]


def test_multiplications_by_each_weight_are_those_of_the_layers_shapes():
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1),  # 5 by 5 outputs
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 4, 3, groups=2),  # 3 by 3 outputs
        nn.ConvTranspose2d(4, 2, 2),  # of 3 by 3 inputs
        nn.Flatten(2),
        nn.Linear(16, 6),  # 2 channels
        nn.TransformerEncoderLayer(6, 2, 12, batch_first=True),
        nn.LSTM(6, 5, batch_first=True),
    )
    tensors = [one for one in named_parameters(model) if one.parameter.ndim > 1]
    state, generator = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    found = multiplications_per_weight(model, tensors, IMAGES)
    uses = {"0.weight": 25, "2.weight": 9, "3.weight": 9}
    assert found == {one.name: 2 * uses.get(one.name, 2) for one in tensors}
    assert all(torch.equal(one, state[name]) for name, one in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)
    assert model.training
    assert all(one.grad is None for one in model.parameters())


def test_flops_gives_each_tensor_as_many_multiplications_until_it_is_full():
    model = convnet()
    names = ["0.weight", "3.weight", "7.weight", "8.weight"]
    found = started(model, include=[*names], sparsity=0.8, distribution="flops", example=IMAGES)
    full = {"7.weight": 30, "8.weight": 15}  # used once an image: they are full before the others have as much
    assert {name: found[name] for name in full} == full
    assert sum(found.values()) == 14 + 43 + 6 + 3
    assert abs(found["0.weight"] - found["3.weight"]) <= 1  # each used at 81 places


def test_inputs_are_arguments_or_keywords_and_tied_weights_count_all_their_uses():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, left, *, right):
            return self.head(self.second(self.first(self.first(left)) + right))

    model = Twice()
    tensors = [one for one in named_parameters(model) if one.parameter.ndim > 1]
    named = {"left": torch.randn(3, 4), "right": torch.randn(3, 4)}
    assert multiplications_per_weight(model, tensors, named) == {
        "first.weight": Fraction(6),
        "second.weight": Fraction(3),
        "head.weight": Fraction(3),
    }


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"distribution": "erdos"}, ["erdos", "erk", "flops"]),
        ({"distribution": "flops"}, ["example="]),
        ({"example": torch.ones(6)}, ["flops"]),
        ({"distribution": "flops", "example": torch.ones(7)}, ["example=", "RuntimeError"]),
        ({"budget": 50, "sparsity": 0.5}, ["budget=50", "sparsity=0.5"]),
        ({"budget": 500}, ["500", "192"]),
        ({"budget": 1}, ["2, one weight"]),
        ({"budget": 50, "strategy": "rigl", "total_steps": 9}, ["rigl", "distribution="]),
        ({"budget": 50, "units": "4x4"}, ["units"]),
        ({"distribution": "erk", "start": "nonzero"}, ["start="]),
        ({"distribution": "erk", "start": "magnitude", "scope": "network"}, ["scope="]),
        ({"distribution": "erk", "strategy": "gmp", "total_steps": 9}, ["gmp", "denser"]),
        ({"distribution": "uniform", "strategy": "srigl", "total_steps": 9}, ["srigl"]),
    ],
)
def test_what_cannot_be_is_refused(options, words):
    with pytest.raises(InputError) as error:
        started(**options)
    assert all(word in str(error.value) for word in words), error.value


def test_a_model_that_does_not_multiply_by_a_tensor_is_refused_by_name():
    model = nn.Sequential(nn.Embedding(10, 8), nn.Linear(8, 8), nn.Linear(8, 2))
    tokens = torch.tensor([[1, 2]])
    with pytest.raises(InputError, match=r"0\.weight.*exclude="):
        started(model, distribution="flops", example=tokens)
    found = started(model, distribution="flops", example=tokens, exclude=nn.Embedding, sparsity=0.5)
    assert found == {"1.weight": 32}

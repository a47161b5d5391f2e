"""Strategies and units that go by outputs are refused for tensors whose first side is another."""

import copy

import pytest
from command_line import said, sparsecore

torch = pytest.importorskip("torch")

from torch import nn

from sparsecore.engine.hooks import hookimpl
from sparsecore.errors import InputError
from sparsecore_torch import sparsify


class Conv1D(nn.Module):
    """The linear layer of transformers, with a weight of (inputs, outputs)."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs))

    def forward(self, x):
        return x @ self.weight


class Experts(nn.Module):
    """Four matrices in a tensor, the first of which computes."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 16, 16))

    def forward(self, x):
        return x @ self.weight[0]


TRANSPOSED = (nn.Conv2d(2, 4, 3), nn.ConvTranspose2d(8, 16, 3))
MODELS = {
    "transposed convolution": (TRANSPOSED, r"'1.weight' has the sides \(inputs, outputs, kernel\)"),
    "parametrization": (
        (nn.Conv2d(2, 4, 3), nn.utils.parametrizations.spectral_norm(nn.ConvTranspose2d(8, 16, 3))),
        r"'1.parametrizations.weight.original' has the sides \(inputs",
    ),
    "Conv1D": ((Conv1D(8, 16), nn.Linear(16, 2)), r"'0.weight' has the sides \(inputs, outputs, kernel\)"),
    "experts": ((Experts(), nn.Linear(16, 2)), r"'0.weight' has the sides \(experts"),
}


def started(layers, **options):
    model = copy.deepcopy(nn.Sequential(*layers))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    options = {"include": ["0.weight", "1.*weight*"], **options}
    return sparsify(model, optimizer, sparsity=0.5, total_steps=100, **options)


@pytest.mark.parametrize("name", MODELS)
def test_srigl_is_refused_for_other_orders_of_sides(name):
    layers, sides = MODELS[name]
    with pytest.raises(InputError, match=rf"strategy 'srigl' counts weights by output.*{sides}"):
        started(layers, strategy="srigl")


def test_a_strategy_of_ones_own_is_refused_too_where_it_says_so():
    class ByOutput:
        outputs_first = True

        @hookimpl
        def update_due(self):
            return False

    with pytest.raises(InputError, match="strategy 'ByOutput' counts weights by output"):
        started(TRANSPOSED, strategy=ByOutput())


def test_srigl_trains_the_other_tensors():
    assert list(started(TRANSPOSED, strategy="srigl", exclude="1.weight").topology.layout.names) == ["0.weight"]
    apart = started(TRANSPOSED, strategy={"0.weight": "srigl", "1.weight": "set"})
    assert list(apart.topology.layout.names) == ["0.weight", "1.weight"]


@pytest.mark.parametrize(
    ("name", "units", "fits"),
    [
        ("transposed convolution", "kernels", True),
        ("transposed convolution", "4x4", True),
        ("transposed convolution", "2x4", False),
        ("Conv1D", "2x2", True),
        ("Conv1D", "2x1", False),
        ("experts", "weights", True),
        ("experts", "2x2", False),
        ("experts", "kernels", False),
    ],
)
def test_units_are_refused_unless_they_are_the_same_in_this_order(name, units, fits):
    layers, sides = MODELS[name]
    options = {"include": "1.weight" if "convolution" in name else "0.weight"}
    if fits:
        training = started(layers, strategy="set", units=units, **options)
        assert training.sparsity == 0.5
        return
    with pytest.raises(InputError, match=rf"the units {units} are of tensors with the sides.*{sides}"):
        started(layers, strategy="set", units=units, **options)


def test_a_run_of_a_module_is_refused_before_its_folder_is_made(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n\n\n"
        "def mine(num_classes):\n"
        "    convolutions = nn.Conv2d(1, 8, 3), nn.ConvTranspose2d(8, 16, 3)\n"
        "    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(16 * 64, num_classes))\n"
    )
    options = ("--backend", "torch", "--model", "mine.py:mine", "--data", "digits", "--epochs", "1", "--out", "run")
    done = sparsecore("train", *options, "--strategy", "srigl", cwd=tmp_path)
    assert "'1.weight' has the sides (inputs, outputs, kernel)" in said(done)
    assert not (tmp_path / "run").exists()

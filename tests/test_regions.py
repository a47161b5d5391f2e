"""Models that are compiled into regions compute what they compute with masks: outputs, gradients, whole runs."""

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sparsecore_cpu._kernels")

from kernel_examples import STORAGES, always
from pairwise import every_other
from region_examples import MODELS, gradients_of, sparse
from sparsify_examples import sgd
from torch import nn
from torch.nn import functional

from sparsecore_torch import sparsify


@every_other(name=MODELS, storage=STORAGES)
def test_outputs_and_gradients_are_those_of_torch_in_double_precision(name, storage):
    model, inputs = MODELS[name]()
    training = sparse(model, storage)
    plain = MODELS[name]()[0].double()
    with torch.no_grad():
        state = training.model.state_dict() if storage == "masked" else None
        if state is None:
            from sparsecore_torch.sparse_training.export import squashed_copy

            state = squashed_copy(training).state_dict()
        plain.load_state_dict(state)
    expected_out, expected = gradients_of(plain, [one.double() for one in inputs])
    out, found = gradients_of(model, inputs)
    assert [len(cut.regions) for cut in training.routes.cuts] == [1], str(training.routes)
    torch.testing.assert_close(out.double(), expected_out, rtol=2e-4, atol=2e-5)
    masks = training.masks()
    if storage == "compact":
        values = found.pop("sparse_values")
        names = training.topology.layout.names
        for tensor in names:
            gradient = torch.zeros(masks[tensor].shape)
            gradient[masks[tensor]] = values[training.topology.slots(tensor)]
            found[tensor] = gradient
    assert found.keys() == expected.keys()
    largest = max(float(one.abs().max()) for one in expected.values())
    for tensor, gradient in expected.items():
        wanted = gradient * masks[tensor] if tensor in masks else gradient
        scale = max(float(wanted.abs().max()), 1e-2 * largest)  # a bias before a batch norm has no gradient
        torch.testing.assert_close(found[tensor].double() / scale, wanted / scale, rtol=0, atol=2e-4, msg=tensor)
    for buffer, value in plain.named_buffers():
        torch.testing.assert_close(dict(model.named_buffers())[buffer].double(), value.double(), rtol=1e-4, atol=1e-5)


def test_regions_leave_no_layer_of_their_kind_to_torch():
    for name, make in MODELS.items():
        model, inputs = make()
        training = sparse(model)
        model(*inputs)
        (made,) = training.routes.cuts
        assert not made.breaks, name
        assert sum(len(region.tensors) for region in made.regions) == len(training.topology.layout.names)


def test_large_dense_layers_before_and_behind_all_sparse_ones_are_left_to_torch():
    class Framed(nn.Module):
        def __init__(self):
            super().__init__()
            self.before, self.between, self.behind = nn.Linear(256, 256), nn.Linear(256, 256), nn.Linear(256, 300)
            self.first, self.second, self.small = nn.Linear(256, 256), nn.Linear(256, 256), nn.Linear(256, 10)

        def forward(self, x):
            x = self.first(functional.relu(self.before(x)))
            x = functional.relu(self.second(functional.relu(self.between(x))))
            return functional.relu(self.behind(x)).flatten(1), self.small(x)

    torch.manual_seed(0)
    model, x = Framed(), torch.randn(6, 256)
    plain = copy.deepcopy(model)
    training = sparse(model, include=["first.weight", "second.weight"])
    plain.load_state_dict(model.state_dict())
    out, expected = model(x), plain(x)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
    sum(one.square().sum() for one in out).backward()
    sum(one.square().sum() for one in expected).backward()
    masks = training.masks()
    for name, parameter in plain.named_parameters():
        gradient = parameter.grad * masks[name] if name in masks else parameter.grad
        torch.testing.assert_close(model.get_parameter(name).grad, gradient, rtol=1e-3, atol=1e-4, msg=name)
    (made,) = training.routes.cuts
    (region,) = made.regions
    linear = [
        [node for node in graph.nodes if node.target is functional.linear]
        for graph in (made.module.graph, region.graph.graph)
    ]
    assert [len(nodes) for nodes in linear] == [2, 4]


class Dropping(nn.Module):
    """Draws random numbers for images in both memory formats, for vectors and for what no region computes."""

    def __init__(self):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 4, 3), nn.Linear(4, 8)

    def forward(self, x):
        y = functional.dropout(self.conv(x), 0.4) + functional.dropout(self.conv(x.contiguous()), 0.4)
        y = functional.dropout(self.linear(y.mean((2, 3))), 0.4)
        return y, torch.rand(3)


def test_dropout_drops_the_entries_that_torch_drops():
    results = []
    for kernels in ("dense", "sparse"):
        torch.manual_seed(0)
        model = Dropping()
        training = sparsify(model, sgd(model), strategy="static", sparsity=0.5, include="*weight", kernels=kernels)
        always(training)
        torch.manual_seed(1)
        results.append(model(torch.ones(9, 3, 5, 6).contiguous(memory_format=torch.channels_last)))
    torch.testing.assert_close(*results)
    assert (results[0][0] == 0).sum() > 10


def test_measuring_which_kernels_are_faster_changes_nothing():
    results = []
    for by_hand in (True, False):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(12, 20), nn.BatchNorm1d(20), nn.Dropout(0.4), nn.Linear(20, 8))
        training = sparsify(model, sgd(model), strategy="static", sparsity=0.5, include="*weight", kernels="sparse")
        if by_hand:
            always(training)
        torch.manual_seed(1)
        out = model(torch.randn(9, 12))
        out.sum().backward()
        assert all(one.grad is not None for one in model.parameters())
        results.append([out, model[1].running_var, torch.rand(3), *(one.grad for one in model.parameters())])
        assert (not training.routes.decisions.made) == by_hand
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_what_was_measured_goes_with_the_state_dict():
    model, inputs = MODELS["residual"]()
    training = sparsify(model, sgd(model), strategy="static", sparsity=0.5, include=nn.Conv2d, kernels="sparse")
    model(*inputs)
    saved = training.state_dict()
    other, _ = MODELS["residual"]()
    resumed = sparsify(other, sgd(other), strategy="static", sparsity=0.5, include=nn.Conv2d, kernels="sparse")
    measured = saved["kernels"]["measured"].items()
    flipped = {case: ["dense" if choice == "sparse" else "sparse", weights] for case, (choice, weights) in measured}
    del saved["checksums"]  # of what was measured
    resumed.load_state_dict(saved | {"kernels": {"measured": flipped, "by hand": []}})
    other(*inputs)
    assert resumed.state_dict()["kernels"]["measured"] == flipped


def test_what_was_set_by_hand_goes_with_the_state_dict():
    model, inputs = MODELS["residual"]()
    training = sparse(model, include=nn.Conv2d)
    model(*inputs)
    other, _ = MODELS["residual"]()
    resumed = sparsify(other, sgd(other), strategy="static", sparsity=0.7, include=nn.Conv2d, kernels="sparse")
    resumed.load_state_dict(training.state_dict())
    other(*inputs)
    assert not resumed.routes.decisions.made
    assert (
        resumed.state_dict()["kernels"]
        == training.state_dict()["kernels"]
        == {"measured": {}, "by hand": [["*", "sparse"]]}
    )


def test_sequences_of_many_lengths_are_measured_a_few_times():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 6))
    training = sparsify(model, sgd(model), strategy="static", sparsity=0.5, include="*weight", kernels="sparse")
    with torch.no_grad():
        for length in range(2, 40):
            model(torch.randn(3, length, 6))
    assert len(training.routes.decisions.made) <= 6


def test_the_last_smaller_batch_is_computed_in_regions_too():
    model, (images,) = MODELS["residual"]()
    training = sparse(model)
    model.eval()
    with torch.no_grad():
        whole = model(images)
        for size in (5, 7, 3, 1):
            torch.testing.assert_close(model(images[:size]), whole[:size], rtol=1e-4, atol=1e-5)
    assert all(made.regions for made in training.routes.cuts)


def test_memory_that_is_written_to_in_place_is_left_to_torch():
    class Writing(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.third = (nn.Linear(8, 8) for _ in range(3))

        def forward(self, x):
            hidden = self.first(x)
            kept = functional.relu(hidden)
            hidden[:, 0] = 2.0  # all that reads it afterwards sees it
            return self.second(hidden) + self.third(kept)

    torch.manual_seed(0)
    model = Writing()
    x = torch.randn(6, 8)
    sparse(model, sparsity=0.5)
    expected = model.second(_written(model.first(x))) + model.third(functional.relu(model.first(x)))
    torch.testing.assert_close(model(x), expected)


def _written(hidden):
    hidden = hidden.clone()
    hidden[:, 0] = 2.0
    return hidden


@pytest.mark.parametrize(
    "odd",
    [
        lambda x: x / 0,
        lambda x: x * float("inf"),
        lambda x: x + float("-inf"),
        lambda x: (x.view(torch.int32) & 0x7FFFFFFF).view(torch.float32),
    ],
    ids=["by zero", "times infinity", "minus infinity", "bits"],
)
def test_what_only_torch_computes_is_left_to_it(odd):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            return odd(self.second(functional.relu(self.first(x))))

    torch.manual_seed(0)
    model = Odd()
    training = sparse(model, sparsity=0.5)
    x = torch.randn(6, 8)
    with torch.no_grad():
        found = model(x)
        expected = odd(model.second(functional.relu(model.first(x))))
    torch.testing.assert_close(found, expected, equal_nan=True, rtol=1e-4, atol=1e-5)
    assert all(made.regions for made in training.routes.cuts)


def test_routes_say_why_torch_computes_a_layer_that_is_compiled():
    class Transposed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            return functional.linear(self.first(x), self.second.weight.t())

    torch.manual_seed(0)
    model = Transposed()
    training = sparse(model, sparsity=0.5)
    model(torch.randn(6, 8))
    text = str(training.routes)
    assert "regions, each computed as a whole: 1\n  first.weight\n" in text
    assert "compiled, and computed by torch:\n  second.weight: " in text


def test_a_second_backward_pass_through_a_kept_graph_has_the_same_gradients():
    model, inputs = MODELS["residual"]()
    sparse(model)
    loss = model(*inputs).square().mean()
    loss.backward(retain_graph=True)
    once = [one.grad.clone() for one in model.parameters()]
    loss.backward()
    for one, gradient in zip(model.parameters(), once, strict=True):
        torch.testing.assert_close(one.grad, 2 * gradient)


def test_updates_do_not_compile_again():
    from compact_examples import STRATEGIES

    model, inputs = MODELS["residual"]()
    optimizer = sgd(model)
    training = sparsify(
        model, optimizer, strategy=STRATEGIES["set"](), sparsity=0.7, include=nn.Conv2d, kernels="sparse"
    )
    always(training)
    while training.updates < 20:
        optimizer.zero_grad()
        model(*inputs).square().mean().backward()
        optimizer.step()
    assert len(training.routes.cuts) == 1


def test_the_backend_is_installed_under_its_name():
    assert "sparsecore" in torch._dynamo.list_backends()
    model, inputs = MODELS["residual"]()
    training = sparsify(model, sgd(model), strategy="static", sparsity=0.7, include=nn.Conv2d)
    expected = model(*inputs)
    torch.testing.assert_close(torch.compile(model, backend="sparsecore")(*inputs), expected, rtol=1e-4, atol=1e-5)
    assert training.topology.size > 0


def test_losses_of_a_run_equal_those_of_masks():
    losses = {}
    for kernels in ("dense", "sparse"):
        model, inputs = MODELS["residual"]()
        optimizer = sgd(model)
        training = sparsify(model, optimizer, strategy="set", sparsity=0.7, include=nn.Conv2d, kernels=kernels)
        always(training)
        losses[kernels] = []
        for _ in range(5):
            optimizer.zero_grad()
            loss = model(*inputs).square().mean()
            loss.backward()
            optimizer.step()
            losses[kernels].append(loss.item())
    np.testing.assert_allclose(losses["sparse"], losses["dense"], rtol=1e-3)

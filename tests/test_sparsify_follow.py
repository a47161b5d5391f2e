"""Another optimizer takes over during sparse training."""

import pytest

torch = pytest.importorskip("torch")

from pairwise import every_other
from sparsify_examples import everything, mlp, often, sgd, train
from wrapped_optimizers import Accelerated

from sparsecore.errors import InputError
from sparsecore_torch import sparsify

WAYS = {
    "masks": {},
    "compact": {"storage": "compact"},
    "sparse kernels": {"kernels": "sparse"},
    "compact, sparse kernels": {"storage": "compact", "kernels": "sparse"},
}


def started(way):
    if "kernels" in WAYS[way]:
        pytest.importorskip("sparsecore_cpu._kernels")
    model = mlp()
    optimizer = sgd(model)
    training = sparsify(model, optimizer, strategy=often(every=2), sparsity=0.75, **WAYS[way])
    train(model, optimizer, range(3))
    return model, optimizer, training


@every_other(way=WAYS, wrap=[lambda inner: inner, Accelerated])
def test_the_new_optimizer_continues_as_if_it_started_without_state(way, wrap):
    model, optimizer, training = started(way)
    # the same from here on, as the optimizer of the start with its state taken away
    twin, same, expected = started(way)
    same.state.clear()
    for group in same.param_groups:
        group.update(lr=0.05, momentum=0.5)
    other = wrap(torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.5, weight_decay=1e-3))
    topology = training.topology
    training.follow(other)
    assert torch.equal(training.topology.positions, topology.positions)
    train(model, other, range(3, 9))
    train(twin, same, range(3, 9))
    assert (training.step, training.updates) == (9, 4) == (expected.step, expected.updates)
    assert torch.equal(training.topology.positions, expected.topology.positions)
    assert torch.equal(training.values(), expected.values())
    assert not any(value for key, value in vars(optimizer).items() if "hook" in key)
    training.squash()
    expected.squash()
    for mine, its in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(mine, its)
    assert sum(len(group["params"]) for group in other.param_groups) == len(list(model.parameters()))


@pytest.mark.parametrize("way", WAYS)
def test_the_old_optimizer_no_longer_affects_the_training(way):
    model, optimizer, training = started(way)
    other = torch.optim.AdamW(model.parameters(), lr=0.01)
    training.follow(other)
    optimizer.step()
    assert training.step == 3
    train(model, other, range(6))
    assert training.step == 9


UNUSABLE = {
    "no optimizer": (lambda model: None, "takes an optimizer of torch.optim"),  # noqa: ARG005
    "of other parameters": (lambda _: sgd(mlp()), "SGD does not hold .* in sparse training"),
    "not entry by entry": (lambda model: torch.optim.LBFGS(model.parameters()), "LBFGS"),
}


@every_other(way=WAYS, case=UNUSABLE)
def test_an_optimizer_that_cannot_take_over_is_refused_and_training_continues(case, way):
    make, sentence = UNUSABLE[case]
    model, optimizer, training = started(way)
    twin, same, expected = started(way)
    other = make(model)
    before = None if other is None else everything(mlp(), other)[2:4]
    with pytest.raises(InputError, match=sentence):
        training.follow(other)
    assert before is None or everything(mlp(), other)[2:3] == before[:1]
    train(model, optimizer, range(3, 7))
    train(twin, same, range(3, 7))
    assert torch.equal(training.values(), expected.values())
    assert training.updates == expected.updates == 3

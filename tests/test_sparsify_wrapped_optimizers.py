"""Optimizers inside of others: their steps are seen, and all of their state is zero where no weight is."""

import pytest

torch = pytest.importorskip("torch")

from sparsify_examples import everything, loss_at, mlp, often, sgd, train
from torch import nn
from wrapped_optimizers import Accelerated, HookedLookahead, Lightning, Lookahead, Sam, ScheduleFree

from sparsecore.errors import InputError
from sparsecore_torch import sparsify

WRAPPERS = {
    "accelerate": Accelerated,
    "lightning": Lightning,
    "accelerate around lightning": lambda inner: Accelerated(Lightning(inner)),
    "lookahead": HookedLookahead,
    "lookahead without hooks": Lookahead,
    "accelerate around lookahead": lambda inner: Accelerated(HookedLookahead(inner)),
    "schedule-free": ScheduleFree,
}
WITHOUT_STATE = ("accelerate", "lightning", "accelerate around lightning")
OPTIMIZERS = {
    "sgd": lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
    "adamw": lambda model: torch.optim.AdamW(model.parameters(), lr=0.01),
}


def assert_all_is_zero_where_no_weight_is(model, training, layers):
    """Weights, and whatever a layer's state holds for a parameter in its shape."""
    for name, mask in training.masks().items():
        parameter = model.get_parameter(name)
        states = [content for layer in layers for content in layer.state.get(parameter, {}).values()]
        for tensor in (parameter, *(one for one in states if getattr(one, "shape", None) == parameter.shape)):
            assert not tensor.detach()[~mask].any(), name


def layers_around(optimizer):
    layers = [optimizer]
    for name in ("optimizer", "_optimizer", "base_optimizer", "base"):
        inner = getattr(optimizer, "__dict__", {}).get(name)
        if inner is not None:
            layers += layers_around(inner)
    return layers


# Adam takes any state for its own, and then misses its moments
PAIRS = [
    (wrapper, inner) for wrapper in WRAPPERS for inner in OPTIMIZERS if wrapper != "schedule-free" or inner == "sgd"
]


@pytest.mark.parametrize(("wrapper", "inner"), PAIRS)
def test_all_state_of_wrapped_optimizers_is_zero_where_no_weight_is(wrapper, inner):
    model = mlp()
    optimizer = WRAPPERS[wrapper](OPTIMIZERS[inner](model))
    training = sparsify(model, optimizer, strategy=often("30%", every=3), sparsity=0.75)
    assert_all_is_zero_where_no_weight_is(model, training, layers_around(optimizer))
    for number in range(12):
        train(model, optimizer, [number])
        assert_all_is_zero_where_no_weight_is(model, training, layers_around(optimizer))
    assert (training.step, training.updates) == (12, 4)
    training.squash()
    assert all(not value for layer in layers_around(optimizer) for key, value in vars(layer).items() if "hook" in key)


@pytest.mark.parametrize("storage", ["masked", "compact"])
@pytest.mark.parametrize("wrapper", WITHOUT_STATE)
def test_a_forwarding_wrapper_changes_nothing(wrapper, storage):
    def weights(wrap):
        model = mlp()
        optimizer = wrap(OPTIMIZERS["adamw"](model))
        training = sparsify(model, optimizer, strategy=often(every=2), sparsity=0.75, storage=storage)
        train(model, optimizer, range(6))
        assert training.updates == 3
        training.squash()
        return [parameter.detach() for parameter in model.parameters()]

    plain, wrapped = weights(lambda inner: inner), weights(WRAPPERS[wrapper])
    assert all(torch.equal(mine, its) for mine, its in zip(plain, wrapped, strict=True))


@pytest.mark.parametrize("storage", ["masked", "compact"])
@pytest.mark.parametrize("way", ["closure", "halves"])
def test_steps_of_sam_are_counted_in_every_usage(way, storage):
    model = mlp()
    optimizer = Sam(model.parameters(), torch.optim.SGD, lr=0.1, momentum=0.9)
    if storage == "compact":  # its state is its own
        with pytest.raises(InputError, match=r"Sam keeps .*'state' of its own.*storage='masked'"):
            sparsify(model, optimizer, storage=storage)
        return
    training = sparsify(model, optimizer, strategy=often(every=2), sparsity=0.75, storage=storage)

    def evaluate(number):
        optimizer.zero_grad()
        loss = loss_at(model, number)
        loss.backward()
        return loss

    for number in range(6):
        evaluate(number)
        if way == "closure":
            optimizer.step(lambda number=number: evaluate(number))
        else:
            optimizer.first_step()
            evaluate(number)
            optimizer.second_step()
        assert_all_is_zero_where_no_weight_is(model, training, layers_around(optimizer))
    assert (training.step, training.updates) == (6, 3)


class KeepsSlowWeightsInAList(Accelerated):
    def __init__(self, optimizer):
        super().__init__(optimizer)
        self.slow = [[p.detach().clone() for p in group["params"]] for group in optimizer.param_groups]


class OfSeveral:
    def __init__(self, *optimizers):
        self.optimizers = list(optimizers)

    def step(self):
        for optimizer in self.optimizers:
            optimizer.step()


class WithoutHooks(torch.optim.Optimizer):
    def __init__(self, params):
        self.param_groups = [{"params": list(params), "lr": 0.1}]
        self.state = {}


class KeepsItsParameters(torch.optim.SGD):
    def __init__(self, params, **options):
        self.all_params = list(params)
        super().__init__(self.all_params, **options)


UNUSABLE = {
    "copies of weights in an attribute": (
        lambda model: KeepsSlowWeightsInAList(sgd(model)),
        "masked",
        "KeepsSlowWeightsInAList keeps tensors .* in 'slow'.*SGD",
    ),
    "several optimizers": (
        lambda model: OfSeveral(sgd(model[0]), sgd(model[2])),
        "masked",
        "made of several optimizers .SGD; SGD.",
    ),
    "no hooks": (lambda model: WithoutHooks(model.parameters()), "masked", "WithoutHooks never runs the hooks"),
    "a list of parameters of its own, compact": (
        lambda model: KeepsItsParameters(model.parameters(), lr=0.1),
        "compact",
        "KeepsItsParameters keeps the model's parameters.*'all_params' of its own.*storage='masked'",
    ),
    "state of its own, compact": (
        lambda model: Lookahead(sgd(model)),
        "compact",
        "Lookahead keeps .*'state' of its own.*storage='masked'",
    ),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_wrappers_that_cannot_be_used_are_refused_by_name_and_nothing_changes(case):
    make, storage, sentence = UNUSABLE[case]
    model = mlp()
    optimizer = make(model)
    before = everything(model, optimizer)
    with pytest.raises(InputError, match=sentence):
        sparsify(model, optimizer, storage=storage)
    assert everything(model, optimizer) == before
    good = sgd(model)
    training = sparsify(model, good, sparsity=0.5, storage=storage)
    train(model, good, [0])
    assert training.step == 1


def test_a_wrapper_with_a_parameter_list_works_with_masks():
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))
    optimizer = KeepsItsParameters(model.parameters(), lr=0.1)
    training = sparsify(model, optimizer, strategy="static", sparsity=0.5)
    train(model, optimizer, range(3))
    assert training.step == 3


class KeepsReferencesInNestedState(Accelerated):
    """Like pytorch_optimizer's TRAC: copies of the weights in its state, but under a name, made at the first step."""

    def step(self):
        references = self.state.setdefault("reference", {})
        for group in self.param_groups:
            for p in group["params"]:
                references.setdefault(p, p.detach().clone())
        self.optimizer.step()


class BeginsWithAList(Accelerated):
    def step(self):
        self.slow = [p.detach().clone() for group in self.param_groups for p in group["params"]]
        self.optimizer.step()


@pytest.mark.parametrize("storage", ["masked", "compact"])
@pytest.mark.parametrize("wrap", [KeepsReferencesInNestedState, BeginsWithAList])
def test_parameter_copies_made_at_the_first_step_are_noticed_then(wrap, storage):
    model = mlp()
    optimizer = wrap(sgd(model))
    sparsify(model, optimizer, strategy="static", sparsity=0.75, storage=storage)
    with pytest.raises(InputError, match=f"{wrap.__name__} keeps tensors of the shapes of weights"):
        train(model, optimizer, [0])


def test_a_wrapper_may_hold_the_parameters_themselves():
    class Holds(Accelerated):
        def __init__(self, optimizer):
            super().__init__(optimizer)
            self.held = [p for group in optimizer.param_groups for p in group["params"]]

    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6))
    optimizer = Holds(sgd(model))
    training = sparsify(model, optimizer, strategy="static", sparsity=0.5)
    train(model, optimizer, range(3))
    assert training.step == 3

"""Sparse training resumes bit for bit from its state dict, loaded in any order; a foreign one is refused."""

import copy
import itertools

import attrs
import pytest

torch = pytest.importorskip("torch")

from processes import start
from sparsify_examples import GrowByGradient, everything, mlp, often, sgd, train
from torch import nn

from sparsecore import hookimpl, per_weight
from sparsecore.engine.schedules import Every
from sparsecore_strategies.deepr import DeepRewiring
from sparsecore_strategies.set import SparseEvolution
from sparsecore_torch import sparsify


@attrs.frozen(eq=False)
class Ages:
    ages: object = per_weight()
    updates: int = 0


@attrs.frozen(eq=False)
class Watcher:
    """Remembers a vector of integers and a number."""

    @hookimpl
    def initial_strategy_state(self, topology):
        return Ages(topology.arrays.zeros_like(topology.positions, topology.size))

    @hookimpl
    def remember(self, strategy_state):
        return Ages(strategy_state.ages + 1, strategy_state.updates + 1)


STACKS = {
    "dpr": lambda: [often()],
    "set": lambda: [SparseEvolution(schedule=Every(steps=3))],
    "deepr": lambda: [DeepRewiring(l1=1e-2, temperature=1e-4)],
    "dpr with memory": lambda: [often(), Watcher()],
    "dpr by gradient": lambda: [often(every=3), GrowByGradient()],
}
OPTIMIZERS = {"sgd": sgd, "adam": lambda model: torch.optim.Adam(model.parameters(), lr=0.05, amsgrad=True)}


def started(stack="dpr", optimizer="sgd", seed=7, model_seed=0, **options):
    model = mlp(model_seed)
    made = OPTIMIZERS[optimizer](model)
    return model, made, sparsify(model, made, strategy=STACKS[stack](), **{"sparsity": 0.75, "seed": seed, **options})


def through_file(parts, path):
    torch.save([part.state_dict() for part in parts], path)
    return torch.load(path, weights_only=True)


def assert_same(ours, theirs):
    for mine, its in zip(ours[0].parameters(), theirs[0].parameters(), strict=True):
        assert torch.equal(mine, its)
    assert torch.equal(ours[2].topology.positions, theirs[2].topology.positions)
    assert (ours[2].step, ours[2].updates) == (theirs[2].step, theirs[2].updates)
    assert str(ours[2].summary()) == str(theirs[2].summary())


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_resumes_as_if_never_stopped(stack, optimizer, tmp_path):
    whole = started(stack, optimizer)
    train(*whole[:2], range(5))
    saved = through_file(whole, tmp_path / "saved.pt")
    resumed = started(stack, optimizer, model_seed=1)
    for part, state in zip(resumed, saved, strict=True):
        part.load_state_dict(state)
    assert_same(resumed, whole)
    for parts in (whole, resumed):
        train(*parts[:2], range(5, 11))
    assert_same(resumed, whole)
    for mine, its in zip(whole[1].state.values(), resumed[1].state.values(), strict=True):
        assert all(torch.equal(torch.as_tensor(mine[key]), torch.as_tensor(its[key])) for key in mine)
    before, after = (parts[2].state_dict()["memories"] for parts in (whole, resumed))
    assert str(before) == str(after)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_model_optimizer_and_training_load_in_any_order(order, tmp_path):
    whole = started()
    train(*whole[:2], range(5))
    saved = through_file(whole, tmp_path / "saved.pt")
    resumed = started(model_seed=1)
    train(*resumed[:2], range(3))  # so that there is something to be replaced
    for part in order:
        resumed[part].load_state_dict(saved[part])
    for parts in (whole, resumed):
        train(*parts[:2], range(5, 9))
    assert_same(resumed, whole)


def test_training_returns_to_an_earlier_state():
    parts = started("dpr by gradient")
    train(*parts[:2], range(4))
    saved = [copy.deepcopy(part.state_dict()) for part in parts]
    train(*parts[:2], range(4, 9))
    expected = [parameter.detach().clone() for parameter in parts[0].parameters()]
    for part, state in zip(parts, saved, strict=True):
        part.load_state_dict(state)
    assert parts[2].step == 4
    train(*parts[:2], range(4, 9))
    assert all(torch.equal(mine, its) for mine, its in zip(parts[0].parameters(), expected, strict=True))


SCRIPT = """
import sys
import torch
from sparsify_examples import train
from test_sparsify_resume import started

begin, end, file, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
parts = started("dpr with memory", "adam")
if begin:
    for part, state in zip(parts, torch.load(file, weights_only=True)):
        part.load_state_dict(state)
train(*parts[:2], range(begin, end))
torch.save([part.state_dict() for part in parts], out)
"""


@pytest.mark.integration
def test_another_process_resumes_bit_for_bit(tmp_path):
    def process(begin, end, file, out):
        arguments = ["-c", SCRIPT, str(begin), str(end), str(tmp_path / file), str(tmp_path / out)]
        (done,) = start(arguments, size=1)
        assert done.status == 0, done.stderr

    process(0, 5, "none", "half")
    process(5, 9, "half", "resumed")
    resumed = torch.load(tmp_path / "resumed", weights_only=True)
    parts = started("dpr with memory", "adam")
    train(*parts[:2], range(9))
    whole = [part.state_dict() for part in parts]
    for mine, its in zip(leaves(whole), leaves(resumed), strict=True):
        assert torch.equal(mine, its) if isinstance(mine, torch.Tensor) else mine == its


def leaves(tree):
    children = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list | tuple) else None
    return [tree] if children is None else [leaf for child in children for leaf in leaves(child)]


def wider():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 11), nn.ReLU(), nn.Linear(11, 3))


def shorter():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))


def of_model(make):
    model = make()
    return sparsify(model, sgd(model), strategy=often(), sparsity=0.75, seed=7).state_dict()


def of(**options):
    def make():
        return started(**options)[2].state_dict()

    return make


def changed(**facts):
    return {**started()[2].state_dict(), **facts}


FOREIGN = {
    "wider": (lambda: of_model(wider), r"the tensor '2.weight': \[11, 12\] there, \[10, 12\] here"),
    "shorter": (lambda: of_model(shorter), r"the tensor '2.weight': none there, \[10, 12\] here"),
    "another seed": (of(seed=8), "seed: 8 there, 7 here"),
    "another sparsity": (of(sparsity=0.5), "sparsity: 0.5 there, 0.75 here"),
    "another strategy": (
        of(stack="deepr"),
        r"strategies with memory: \['DeepRewiring'\] there, \['DynamicReallocation'\] here",
    ),
    "a model's": (lambda: mlp().state_dict(), "no state dict of sparse training"),
    "nothing": (dict, "no state dict of sparse training"),
    "no dict": (lambda: 3, "no state dict of sparse training"),
    "without positions": (lambda: {k: v for k, v in changed().items() if k != "positions"}, "damaged: .*positions"),
    "positions out of bounds": (
        lambda: changed(positions=changed()["positions"] + 200),
        "damaged: .*positions .* to .*the layout has 0 to 191",
    ),
    "positions twice": (lambda: changed(positions=changed()["positions"] * 0), "damaged: .*position 0 twice"),
    "too few positions": (
        lambda: changed(positions=changed()["positions"][:5]),
        r"damaged: .*shape \(5,\); expected 48 positions",
    ),
    "other memories": (
        lambda: changed(memories={"DynamicReallocation": {"scalars": {"h": 1.0}, "vectors": {}}}),
        "has the fields h; expected threshold",
    ),
    "negative time": (lambda: changed(clock={"step": -1, "updates": 0}), "damaged"),
    "half a step": (lambda: changed(clock={"step": 1.5, "updates": 0}), "damaged: 'step' is 1.5"),
    "negative updates": (lambda: changed(clock={"step": 1, "updates": -3}), "damaged: 'updates' is -3"),
    "too short a start": (lambda: changed(start=[1]), "damaged: it holds 1 numbers of weights at the start"),
    "a negative start": (lambda: changed(start=[-1, 9]), "damaged: 'start' is -1"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_the_state_dict_of_another_training_is_refused(case):
    make, sentence = FOREIGN[case]
    model, optimizer, training = started()
    train(model, optimizer, range(3))
    before, state = everything(model, optimizer), training.state_dict()
    with pytest.raises(ValueError, match=sentence):
        training.load_state_dict(make())
    assert everything(model, optimizer) == before
    assert [str(leaf) for leaf in leaves(training.state_dict())] == [str(leaf) for leaf in leaves(state)]


def test_a_state_dict_is_a_snapshot():
    parts = started()
    state = parts[2].state_dict()
    before = [str(leaf) for leaf in leaves(state)]
    train(*parts[:2], range(4))
    assert [str(leaf) for leaf in leaves(state)] == before


@pytest.mark.filterwarnings("ignore::sparsecore.errors.LostWeightsWarning")  # positions are drawn anew on purpose
def test_total_steps_may_be_extended():
    options = {"strategy": often(every=2), "sparsity": 0.75}
    model = mlp()
    optimizer = sgd(model)
    short = sparsify(model, optimizer, total_steps=4, **options)
    train(model, optimizer, range(6))
    assert short.updates == 1  # none after the last step
    state = short.state_dict()
    short.squash()
    longer = sparsify(model, optimizer, total_steps=100, **options)
    longer.load_state_dict(state)
    train(model, optimizer, range(6, 10))
    assert longer.updates == 3

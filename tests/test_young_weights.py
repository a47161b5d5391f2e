"""Weights that grow late under Adam: how long their steps are, and that their own step counts make them as new."""

import copy
import math
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor, nn
from wrapped_optimizers import HookedLookahead

from sparsecore.errors import InputError
from sparsecore.strategy import Every, Reallocation, YoungWeights, hookimpl
from sparsecore_strategies.rigl import RigL
from sparsecore_strategies.set import SparseEvolution
from sparsecore_torch import SparseTraining, sparsify

SIDE, STEPS = 12, 40
OWN = YoungWeights(own_steps=True)
Make = Callable[[Any], torch.optim.Optimizer]


class Slopes(nn.Module):
    """Its loss has the given gradient for each weight, whatever the weights are."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(SIDE, SIDE, bias=False) for _ in range(2))

    def forward(self, slopes: Tensor) -> Tensor:
        return torch.stack([(one.weight * own).sum() for one, own in zip(self.layers, slopes, strict=True)]).sum()


@attrs.define(eq=False)
class Births:
    """Notes after which step each weight has grown."""

    steps: dict[int, int] = attrs.field(factory=dict)

    @hookimpl
    def reallocated(self, reallocation: Reallocation, clock: Any) -> None:
        for position in reallocation.pruned_positions.tolist():
            self.steps.pop(position, None)
        self.steps.update(dict.fromkeys(reallocation.grown_positions.tolist(), clock.step))


def slopes_of(step: int) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(2, SIDE, SIDE, generator=generator, dtype=torch.float64)


@attrs.define(eq=False)
class Loop:
    """A model in training, by one optimizer or by one for each layer."""

    makes: tuple[Make, ...]
    options: dict[str, Any] = attrs.field(factory=dict)
    strategy: Any = SparseEvolution(schedule=Every(steps=7))
    births: Births = attrs.field(factory=Births)
    wrapper: Callable[[Any], Any] = lambda optimizer: optimizer
    model: Slopes = attrs.field(init=False)
    optimizers: list[torch.optim.Optimizer] = attrs.field(init=False)
    training: SparseTraining = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        torch.manual_seed(0)
        self.model = Slopes().double()
        layers: list[nn.Module] = [self.model] if len(self.makes) == 1 else list(self.model.layers)
        made = zip(self.makes, layers, strict=True)
        self.optimizers = [self.wrapper(make(layer.parameters())) for make, layer in made]
        stack = [self.strategy, self.births]
        self.training = sparsify(
            self.model, self.optimizers, strategy=stack, sparsity=0.5, include="*", total_steps=500, **self.options
        )

    def run(self, steps: range, scaler: Any = None, overflows: frozenset[int] = frozenset()) -> None:
        scaler = scaler or torch.amp.GradScaler("cpu", enabled=False)
        for step in steps:
            self.model.zero_grad()
            slopes = slopes_of(step).fill_(math.inf) if step in overflows else slopes_of(step)
            scaler.scale(self.model(slopes)).backward()
            for optimizer in self.optimizers:
                scaler.step(optimizer)
            scaler.update()

    @property
    def values(self) -> dict[int, float]:
        return dict(zip(self.training.topology.positions.tolist(), self.training.values().tolist(), strict=True))

    def states(self) -> Any:
        optimizers = [one.state_dict() for one in self.optimizers]
        return copy.deepcopy((self.model.state_dict(), optimizers, self.training.state_dict()))

    def load(self, states: Any) -> None:
        self.training.load_state_dict(states[2])
        self.model.load_state_dict(states[0])
        for optimizer, state in zip(self.optimizers, states[1], strict=True):
            optimizer.load_state_dict(state)


def alone(make: Make, position: int, steps: range, without: frozenset[int] = frozenset()) -> float:
    """The value of a weight that has been alone with an optimizer since it grew, in these steps."""
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = make([weight])
    for step in steps:
        if step not in without:
            weight.grad = slopes_of(step).view(-1)[position].view(1)
            optimizer.step()
    return weight.item()


def assert_as_alone(loop: Loop, without: frozenset[int] = frozenset(), tolerance: float = 1e-12) -> None:
    values, births = loop.values, loop.births.steps
    assert len(set(births.values())) > 2
    for position, birth in list(births.items())[::5]:
        make = loop.makes[position // SIDE**2 % len(loop.makes)]
        expected = alone(make, position, range(birth + 1, STEPS + 1), without)
        assert values[position] == pytest.approx(expected, rel=tolerance, abs=tolerance), (position, birth)


def adamw(held: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(held, lr=0.01, weight_decay=0.3, betas=(0.8, 0.95), eps=1e-3)


class Derived(torch.optim.AdamW):
    """Not known by its class, but seen to take Adam's steps."""


OPTIMIZERS: dict[str, Make] = {
    "AdamW": adamw,
    "Adam with L2, fused and maximizing": lambda held: torch.optim.Adam(
        held, lr=0.01, weight_decay=0.1, fused=True, maximize=True
    ),
    "AdamW with AMSGrad, its rate a tensor": lambda held: torch.optim.AdamW(
        held, lr=torch.tensor(0.01, dtype=torch.float64), amsgrad=True, foreach=False
    ),
}


def test_constant_gradients_move_a_late_weight_by_3_to_7_learning_rates() -> None:
    weight = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    adam = torch.optim.Adam([weight], lr=1.0)
    weight.grad = torch.tensor([1.0, 1.0], dtype=torch.float64)
    adam.step()
    adam.state[weight]["step"].fill_(100_000)
    adam.state[weight]["exp_avg"].zero_(), adam.state[weight]["exp_avg_sq"].zero_()
    lengths = []
    for step in range(100):
        before = weight.detach().clone()
        weight.grad = torch.tensor([1.0, (-1.0) ** step], dtype=torch.float64)
        adam.step()
        lengths.append((before - weight.detach()).abs())
    constant, alternating = torch.stack(lengths).unbind(1)
    assert constant[0] == pytest.approx(3.16, abs=0.01)
    assert constant.max() == pytest.approx(6.57, abs=0.01)
    assert constant.argmax() == 11
    assert constant[-1] == pytest.approx(3.24, abs=0.01)
    assert alternating[0] == pytest.approx(3.16, abs=0.01)
    assert alternating[-1] < 0.2


@pytest.mark.parametrize("storage", ["masked", "compact"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_weight_that_grows_late_moves_as_if_it_were_alone_with_a_new_optimizer(name: str, storage: str) -> None:
    loop = Loop((OPTIMIZERS[name],), {"storage": storage, "young": "own-steps"})
    loop.run(range(1, STEPS + 1))
    assert_as_alone(loop)


def test_several_optimizers_each_correct_their_own_weights() -> None:
    loop = Loop((adamw, lambda held: Derived(held, lr=0.02)), {"young": OWN})
    loop.run(range(1, STEPS + 1))
    assert_as_alone(loop)


def test_an_optimizer_may_take_more_steps_than_another_and_ages_beyond_all_steps_are_mature() -> None:
    loop = Loop((adamw, adamw), {"young": OWN}, SparseEvolution(schedule=Every(steps=2)))
    for step in range(1, 4):
        loop.run(range(step, step + 1))
        for _ in range(5):
            loop.optimizers[0].step()
    state = loop.training.state_dict()
    assert max(state["young"]["ages"].tolist()) > loop.training.step
    loop.training.load_state_dict(state)
    del state["checksums"]
    state["young"]["ages"][0] = 2**39
    loop.training.load_state_dict(state)
    assert len(loop.training.state_dict()["young"]["ages"]) == len(state["young"]["ages"]) - 1


def test_updates_that_replace_a_step_do_not_age_weights() -> None:
    loop = Loop((adamw,), {"young": OWN}, RigL(schedule=Every(steps=7)))
    loop.run(range(1, STEPS + 1))
    assert_as_alone(loop, without=frozenset(range(7, STEPS, 7)))


@pytest.mark.parametrize("name", ["AdamW", "Adam with L2, fused and maximizing"])
def test_steps_that_a_grad_scaler_skips_do_not_age_weights(name: str) -> None:
    loop, skipped = Loop((OPTIMIZERS[name],), {"young": OWN}), frozenset({10, 11, 30})
    loop.run(range(1, STEPS + 1), torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=1000), skipped)
    assert loop.training.step == STEPS - len(skipped)
    taken = [step for step in range(1, STEPS + 1) if step not in skipped]
    births = loop.births.steps
    births.update({position: taken[birth - 1] for position, birth in births.items()})  # by the loop's own count
    assert_as_alone(loop, without=skipped)


def test_a_tensor_without_a_gradient_does_not_age() -> None:
    loop = Loop((adamw,), {"young": OWN})
    loop.run(range(1, 8))
    for step in range(8, 13):
        loop.model.zero_grad()
        (loop.model.layers[0].weight * slopes_of(step)[0]).sum().backward()
        loop.optimizers[0].step()
    for position, birth in loop.births.steps.items():
        steps = range(birth + 1, 13) if position < SIDE**2 else range(0)
        assert loop.values[position] == pytest.approx(alone(adamw, position, steps), rel=1e-12, abs=1e-12)


def test_damping_shortens_the_step_but_not_the_decay() -> None:
    young, rate, decay = YoungWeights(own_steps=True, warm_up=4), 0.01, 0.3
    loop = Loop((adamw,), {"young": young})
    loop.run(range(1, 7 + 6))
    for position in list(loop.births.steps)[::5]:
        weight = moment = square = 0.0
        for age in range(1, 6):
            slope = slopes_of(7 + age).view(-1)[position].item()
            moment, square = 0.8 * moment + 0.2 * slope, 0.95 * square + 0.05 * slope**2
            step = moment / (1 - 0.8**age) / (math.sqrt(square / (1 - 0.95**age)) + 1e-3)
            weight -= rate * decay * weight + min(1, age / 4) * rate * step
        assert loop.values[position] == pytest.approx(weight, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("storage", ["masked", "compact"])
def test_a_saved_training_goes_on_bit_for_bit(storage: str) -> None:
    loop, other = (Loop((adamw,), {"storage": storage, "young": "own-steps"}) for _ in range(2))
    loop.run(range(1, 18))
    other.load(loop.states())
    for one in (loop, other):
        one.run(range(18, STEPS))
    assert loop.values == other.values
    assert loop.training.state_dict()["young"]["ages"].tolist() == other.training.state_dict()["young"]["ages"].tolist()


def test_another_optimizer_counts_from_its_own_start() -> None:
    loop = Loop((adamw,), {"young": OWN})
    loop.run(range(1, 10))
    values, loop.optimizers = loop.values, [adamw(loop.model.parameters())]
    loop.training.follow(loop.optimizers)
    loop.run(range(10, 12))
    for position, birth in list(loop.births.steps.items())[::5]:
        weight = nn.Parameter(torch.tensor([values[position]], dtype=torch.float64))
        optimizer = adamw([weight])
        for step in (10, 11):
            weight.grad = slopes_of(step).view(-1)[position].view(1)
            optimizer.step()
        assert loop.values[position] == pytest.approx(weight.item(), rel=1e-12), birth


def test_a_step_is_corrected_before_a_wrapper_goes_on() -> None:
    loop = Loop((adamw,), {"young": OWN}, wrapper=HookedLookahead)
    loop.run(range(1, 21))
    for position, birth in list(loop.births.steps.items())[::5]:
        weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        inner = adamw([weight])
        wrapped = HookedLookahead(inner)
        for step in range(1, 21):
            if step == birth + 1:
                inner.state[weight]["step"].zero_()
            slope = slopes_of(step).view(-1)[position].view(1)
            weight.grad = slope if step > birth else torch.zeros_like(slope)
            wrapped.step()
        assert loop.values[position] == pytest.approx(weight.item(), rel=1e-12, abs=1e-12), birth


def test_weights_that_a_training_adopts_are_young() -> None:
    loop = Loop((adamw,), {"young": OWN})
    loop.run(range(1, 10))
    before = loop.training.topology.positions
    with torch.no_grad():
        for layer in loop.model.layers:
            layer.weight.copy_(layer.weight.roll(1))
    loop.training.adopt()
    young = loop.training.state_dict()["young"]
    new = set(loop.training.topology.positions.tolist()) - set(before.tolist())
    ages = dict(zip(young["positions"].tolist(), young["ages"].tolist(), strict=True))
    assert new
    assert {position for position, age in ages.items() if age == 0} == new
    assert {age for position, age in ages.items() if position not in new} == {2}


def test_weights_are_young_until_their_correction_is_negligible() -> None:
    loop = Loop((lambda held: torch.optim.Adam(held, betas=(0.5, 0.5)),), {"young": OWN})
    loop.run(range(1, STEPS + 1))
    births = loop.births.steps.values()
    assert max(births) - min(births) > 20  # 0.5 ** 20 is about a millionth
    young = loop.training.state_dict()["young"]["ages"].tolist()
    assert sorted(young) == sorted(STEPS - birth for birth in births if STEPS - birth < 20)
    assert_as_alone(loop, tolerance=1e-6)


def test_what_young_weights_get_is_refused_where_it_has_no_meaning() -> None:
    with pytest.raises(InputError, match="young='own-steps' corrects the steps of Adam, and SGD takes other"):
        Loop((lambda held: torch.optim.SGD(held, lr=0.1),), {"young": "own-steps"})
    with pytest.raises(InputError, match="RAdam takes other"):
        Loop((torch.optim.RAdam,), {"young": "damped"})
    with pytest.raises(InputError, match="none, own-steps, damped, or a YoungWeights; given 'all'"):
        Loop((adamw,), {"young": "all"})
    own, none = Loop((adamw,), {"young": OWN}), Loop((adamw,), {"young": "none"})
    with pytest.raises(InputError, match=r"layers.0.weight get own-steps, and here they get none; .* young="):
        none.training.load_state_dict(own.training.state_dict())
    first = own.training.topology.positions[:2].long()
    young: list[tuple[Any, Any]] = [
        (torch.tensor([-1]), torch.tensor([3])),
        (first, torch.tensor([0, -1])),
        (first, torch.tensor([0, 2**62])),
        (first, torch.tensor([0])),
        (first.flip(0), torch.tensor([0, 0])),
        (first[[0, 0]], torch.tensor([0, 0])),
        (first.view(1, 2), torch.tensor([[0, 0]])),
        (first.double(), torch.tensor([0, 0])),
        (first > 0, torch.tensor([0, 0])),
        (first.tolist(), [0, 0]),
        (None, torch.tensor([0, 0])),
    ]
    for positions, ages in young:
        damaged = own.training.state_dict()
        del damaged["checksums"]
        damaged["young"]["positions"], damaged["young"]["ages"] = positions, ages
        with pytest.raises(InputError, match="damaged: its young weights"):
            own.training.load_state_dict(damaged)
    old = own.training.state_dict()
    del old["young"], old["checksums"]
    own.training.load_state_dict(old)


@attrs.frozen(eq=False)
class Chooses:
    """A strategy with a choice of its own."""

    @hookimpl
    def young_weights(self) -> YoungWeights:
        return YoungWeights(warm_up=3)


def test_a_strategy_chooses_unless_the_user_does_and_only_for_adam() -> None:
    makes: tuple[Make, ...] = (adamw,)
    for given, expected in ((None, "YoungWeights(own_steps=False, warm_up=3)"), ("own-steps", "own-steps")):
        loop = Loop(makes, {"young": given}, Chooses())
        assert set(loop.training.state_dict()["young"]["choices"].values()) == {expected}
    plain = Loop((lambda held: torch.optim.SGD(held, lr=0.1),), {}, Chooses())
    assert plain.training.state_dict()["young"]["choices"] == {}

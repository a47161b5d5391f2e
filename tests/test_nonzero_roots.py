"""Second moments are one while an optimizer steps: the step is unchanged, and no other code sees these values."""

import pytest

torch = pytest.importorskip("torch")

from sparsify_examples import loss_at, mlp

from sparsecore_torch import sparsify
from sparsecore_torch._torch_internals.optimizers import move_to_front
from sparsecore_torch.sparse_training.storage import nonzero_roots

OPTIMIZERS = {
    "adam": lambda given: torch.optim.Adam(given, lr=1e-2, weight_decay=1e-2),
    "adamw": lambda given: torch.optim.AdamW(given, lr=1e-2),
    "adamw foreach": lambda given: torch.optim.AdamW(given, lr=1e-2, foreach=True),
    "adamw amsgrad": lambda given: torch.optim.AdamW(given, lr=1e-2, amsgrad=True),
    "adamw amsgrad foreach": lambda given: torch.optim.AdamW(given, lr=1e-2, amsgrad=True, foreach=True),
    "adamw maximize": lambda given: torch.optim.AdamW(given, lr=1e-3, maximize=True),
    "nadam": lambda given: torch.optim.NAdam(given, lr=1e-2, decoupled_weight_decay=True, weight_decay=1e-2),
    "radam": lambda given: torch.optim.RAdam(given, lr=1e-2),
    "rmsprop": lambda given: torch.optim.RMSprop(given, lr=1e-3),
    "rmsprop centered": lambda given: torch.optim.RMSprop(given, lr=1e-3, centered=True, momentum=0.9),
    "adagrad": lambda given: torch.optim.Adagrad(given, lr=1e-2),
}
MOMENTS = ("exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum")


@pytest.fixture(autouse=True)
def _on_any_machine(monkeypatch):
    monkeypatch.setattr(nonzero_roots, "_takes_longer_of_zeros", lambda _: True)


def masks_of(model, training):
    return {model.get_parameter(name): mask for name, mask in training.masks().items()}


def step(model, optimizer, number, masks=None):
    optimizer.zero_grad()
    loss_at(model, number).backward()
    for parameter, mask in (masks or {}).items():
        parameter.grad[~mask] = 0.0
    optimizer.step()


def inactive_moments(optimizer, masks):
    return torch.cat(
        [
            optimizer.state[parameter][key][~mask]
            for parameter, mask in masks.items()
            for key in MOMENTS
            if key in optimizer.state[parameter]
        ]
    )


def started(make):
    model = mlp()
    optimizer = make(model.parameters())
    training = sparsify(model, optimizer, strategy="static", sparsity=0.75)
    return model, optimizer, training, masks_of(model, training)


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_steps_equal_a_hand_masked_loop_bit_for_bit(make):
    model, optimizer, training, masks = started(make)
    seen = []
    optimizer.register_step_pre_hook(
        lambda *_: seen.append(inactive_moments(optimizer, masks)) if len(optimizer.state[next(iter(masks))]) else None
    )
    twin = mlp()
    twin.load_state_dict(model.state_dict())
    same = make(twin.parameters())
    its_masks = masks_of(twin, training)
    for number in range(8):
        step(model, optimizer, number)
        step(twin, same, number, its_masks)
        assert not inactive_moments(optimizer, masks).any()
        for mine, its in zip(model.parameters(), twin.parameters(), strict=True):
            assert torch.equal(mine, its)
            assert optimizer.state[mine].keys() == same.state[its].keys()
            for key, content in optimizer.state[mine].items():
                assert torch.equal(torch.as_tensor(content), torch.as_tensor(same.state[its][key]))
    assert bool((seen[-1] == 1.0).all())  # else it would say nothing about moments that are one


@pytest.mark.parametrize("make", [torch.optim.AdamW, torch.optim.RMSprop])
def test_a_step_that_raises_leaves_no_moments_in_what_is_saved_or_stepped_on(make):
    model, optimizer, _, masks = started(lambda given: make(given, lr=1e-2))
    twin, same, *_ = started(lambda given: make(given, lr=1e-2))
    for number in range(3):
        step(model, optimizer, number)
        step(twin, same, number)
    group = optimizer.param_groups[0]
    rate = group["lr"]
    group["lr"] = "no number"
    with pytest.raises(TypeError):
        step(model, optimizer, 3)
    group["lr"] = rate
    saved = optimizer.state_dict()["state"]
    for number, parameter in enumerate(model.parameters()):
        if parameter in masks:
            assert not any(saved[number][key][~masks[parameter]].any() for key in MOMENTS if key in saved[number])
    for number in range(4, 7):
        step(model, optimizer, number)
        assert not inactive_moments(optimizer, masks).any()
        assert all(not parameter[~mask].any() for parameter, mask in masks.items())


def test_hooks_after_a_step_see_restored_moments():
    model, seen = mlp(), []
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    optimizer.register_step_post_hook(lambda *_: seen.append(inactive_moments(optimizer, masks)))
    masks = masks_of(model, sparsify(model, optimizer, strategy="static", sparsity=0.75))
    for number in range(4):
        step(model, optimizer, number)
    assert not any(one.any() for one in seen[1:])  # what is there after the first step is cleared behind it


class Derived(torch.optim.AdamW):
    """Who knows what it does."""


@pytest.mark.parametrize(
    "make", [lambda given: torch.optim.AdamW(given, fused=True), Derived], ids=["fused", "derived"]
)
def test_fused_optimizers_and_other_classes_are_left_alone(make):
    model, optimizer, _, masks = started(make)
    seen = []
    step(model, optimizer, 0)
    optimizer.register_step_pre_hook(lambda *_: seen.append(inactive_moments(optimizer, masks)))
    step(model, optimizer, 1)
    assert not seen[0].any()


def test_a_hook_that_is_moved_to_the_front_runs_first():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=0.1)
    order = []
    optimizer.register_step_post_hook(lambda *_: order.append("first registered"))
    move_to_front(optimizer, optimizer.register_step_post_hook(lambda *_: order.append("moved")))
    optimizer.step()
    assert order == ["moved", "first registered"]

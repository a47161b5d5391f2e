"""A sparsify that fails, whatever fails in it, leaves model and optimizer as they were."""

import gc
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from sparsify_examples import everything, mlp, often, train
from wrapped_optimizers import Accelerated

import sparsecore_torch
from sparsecore_torch import sparsify

PACKAGE = str(Path(sparsecore_torch.__file__).parent)
GENERATOR = 0x20


class BrokenError(Exception):
    """Raised by the test in the midst of sparsify."""


def run_and_fail_at(number, action):
    """The code of each function that the package calls in an action; the call of this number fails."""
    called = []

    def watch(frame, event, _):
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(PACKAGE) and not code.co_flags & GENERATOR:
            called.append(code)
            if len(called) - 1 == number:
                raise BrokenError

    before = sys.getprofile()
    # finalizers of what earlier actions left are no part of this one, and what they raise is lost
    gc.disable()
    sys.setprofile(watch)
    try:
        action()
    except BrokenError:
        return called
    finally:
        sys.setprofile(before)
        gc.enable()
    assert number is None
    return called


CASES = {
    "masks": {},
    "compact": {"storage": "compact"},
    "sparse kernels": {"kernels": "sparse"},
    "compact, sparse kernels": {"storage": "compact", "kernels": "sparse"},
    "masks, wrapped": {},
    "compact, wrapped": {"storage": "compact"},
}


def prepared(wrapped=False):
    """A model in training, with gradients and optimizer state."""
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    train(model, optimizer, [0, 1])
    return model, Accelerated(optimizer) if wrapped else optimizer


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.slow) if "," in case or case == "masks" else case for case in CASES]
)
def test_a_failed_call_changes_nothing_and_a_second_call_trains_normally(case):
    wrapped = "wrapped" in case
    if "kernels" in CASES[case]:
        pytest.importorskip("sparsecore_cpu._kernels")
    options = {"strategy": often(every=1), "sparsity": 0.75, **CASES[case]}

    def weights_after(model, optimizer):
        training = sparsify(model, optimizer, **options)
        train(model, optimizer, [2, 3])
        assert (training.step, training.updates) == (2, 2)
        training.squash()
        return [parameter.detach().clone() for parameter in model.parameters()]

    gc.collect()  # trainings that other tests have left are looked at as long as they are there
    trainings = []
    expected = weights_after(*prepared(wrapped))
    model, optimizer = prepared(wrapped)
    called = run_and_fail_at(None, lambda: trainings.append(sparsify(model, optimizer, **options)))
    trainings.pop().squash()  # as long as it goes on, it is looked at by all that follow
    # each function where it is first and last called
    first, last = dict(zip(reversed(called), range(len(called) - 1, -1, -1), strict=True)), {}
    last.update({code: number for number, code in enumerate(called)})
    numbers = sorted({*first.values(), *last.values()})
    assert len(numbers) > 60
    numbers = numbers[::2] if case == "masks" else numbers[::12]
    for number in numbers:
        model, optimizer = prepared(wrapped)
        before = everything(model, optimizer), everything(model, getattr(optimizer, "optimizer", optimizer))
        run_and_fail_at(number, lambda model=model, optimizer=optimizer: sparsify(model, optimizer, **options))
        after = everything(model, optimizer), everything(model, getattr(optimizer, "optimizer", optimizer))
        assert before == after, called[number]
        if number % 5 == 0:
            again = weights_after(model, optimizer)
            assert all(torch.equal(mine, its) for mine, its in zip(again, expected, strict=True)), called[number]

"""Memory of activations is reused and bounded, whatever batch sizes there are; missing gradients are refused."""

import pytest

pytest.importorskip("sparsecore_cpu._kernels")

from sparsecore_cpu.gradients import LazyGradient
from sparsecore_cpu.runtime import Buffers, Form, Runtime

LANES = 16


def held(buffers: Buffers, *forms: Form) -> int:
    """The bytes of buffers that are taken at once, and given back."""
    taken = [buffers.take(form) for form in forms]
    return sum(one.array.nbytes for one in taken)


def test_memory_is_bounded_by_three_times_the_most_that_was_in_use_at_once() -> None:
    buffers = Buffers(LANES)
    most = 0
    for size in range(1, 60):
        forms = [Form(size * LANES, 4, 5, channels) for channels in (1, 2, 3)]
        most = max(most, held(buffers, *forms))
        assert buffers.nbytes <= 3 * most


def test_two_batch_sizes_in_turn_allocate_nothing() -> None:
    buffers = Buffers(LANES)
    forms = [[Form(images, 8, 8, channels) for channels in (3, 4)] for images in (64, 20)]
    seen = {taken.array.ctypes.data for several in forms for taken in [buffers.take(form) for form in several]}
    for _ in range(3):
        for several in forms:
            assert {taken.array.ctypes.data for taken in [buffers.take(form) for form in several]} <= seen


def test_a_gradient_to_which_nothing_has_contributed_is_refused() -> None:
    runtime, form = Runtime.of(1), Form(3, 4, 4, 2)
    with pytest.raises(RuntimeError, match="no operation has contributed"):
        LazyGradient().total(runtime, form)
    gradient = LazyGradient(ready=[runtime.buffers.take(form)])
    gradient.total(runtime, form)
    with pytest.raises(RuntimeError, match="read its gradient once"):
        gradient.total(runtime, form)

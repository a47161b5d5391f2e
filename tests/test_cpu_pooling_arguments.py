"""Kernels for pooling and for changes of shape refuse arguments that do not fit, and write nowhere else."""

from typing import Any

import numpy as np
import pytest

pytest.importorskip("sparsecore_cpu._kernels")

from cpu_examples import MACHINES
from kernel_arguments import KERNELS, by_channel, features, images, mask, memory, places, read, sums, weights

from sparsecore_cpu import _kernels
from sparsecore_cpu.runtime import aligned_zeros

STEPS_AT_ONCE = [((2, 1), (1, 1)), ([1, 2], 1), (2, (1, 1))]


def windows(first: Any = (0, 2), last: Any = (2, 4), columns: Any = ((0, 2), (3, 5))) -> Any:
    """Of 2 by 2 outputs over 4 by 5 inputs."""
    return _kernels.Windows(places(*first), places(*last), *(places(*of) for of in columns))


def ones(count: int) -> Any:
    """Factors."""
    return np.ones(count, np.float32)


def window_sum(x: Any = None, out: Any = None, add: Any = None, of: Any = None, **options: Any) -> None:
    """Sums of 2 by 2 windows, unless something else is given."""
    given = {"row_factors": ones(2), "column_factors": ones(2), "by_input": False, "threads": 1}
    x, out = x or images(), out or images(height=2, width=2)
    KERNELS.window_sum(x, out, add, of or windows(), **given | options)


def max_backward(x: Any = None, out: Any = None, of: Any = None, **options: Any) -> None:
    """The gradient of maxima of 2 by 2 windows."""
    given = {"gradient": images(height=2, width=2), "add": None, "mask": None, "sums": None, "threads": 1} | options
    x = _kernels.Input(x or images())
    KERNELS.max_pool_backward(x=x, out=out or images(), windows=of or windows(), **given)


def gather(channels: Any, x: Any = None, out: Any = None, first: int = 0, add: Any = None) -> None:
    """Channels of two."""
    KERNELS.gather_channels(x or images(), channels, out or images(), first, add, 1)


def shared() -> tuple[Any, Any]:
    """Two activations in one memory."""
    array = memory()
    return _kernels.Activation(array, 1, 3, False), _kernels.Activation(array, 1, 3, False)


REFUSED = {
    "windows that begin before the input": ("begin inside", lambda: windows(first=(-1, 2))),
    "windows that turn": ("neither begin nor end before", lambda: windows(first=(2, 0), last=(3, 4))),
    "windows that end in turns": ("neither begin nor end before", lambda: windows(last=(4, 3))),
    "a window that ends before it begins": ("ends before it begins", lambda: windows(first=(0, 3), last=(2, 2))),
    "windows without an end": ("a first and a last", lambda: windows(last=(2,))),
    "no windows": ("a first and a last", lambda: windows(first=(), last=())),
    "windows of floats": ("must be an array of int32", lambda: _kernels.Windows(ones(2), *[places(1, 2)] * 3)),
    "another number of rows": ("one window for each row", lambda: window_sum(out=images(height=3, width=2))),
    "another number of columns": ("one window for each row", lambda: window_sum(out=images(height=2, width=3))),
    "rows beyond the input": ("beyond the input", lambda: window_sum(of=windows(last=(2, 5)))),
    "columns beyond the input": ("beyond the input", lambda: window_sum(of=windows(columns=((0, 2), (3, 6))))),
    "factors that are missing": ("one factor for each row", lambda: window_sum(row_factors=ones(1))),
    "factors of the input": ("one factor for each row", lambda: window_sum(by_input=True)),
    "other channels": ("different numbers of channels", lambda: window_sum(out=images(height=2, width=2, channels=3))),
    "other batches": ("different batches", lambda: window_sum(x=images(count=2))),
    "sums of features": ("images, not features", lambda: window_sum(x=features())),
    "sums in place": ("shares memory", lambda: window_sum(*shared(), of=windows())),
    "a start of another border": (
        "one shape and border",
        lambda: window_sum(add=images(height=2, width=2, border=2)),
    ),
    "no thread": ("threads must be", lambda: window_sum(threads=0)),
    "maxima of nothing": (
        "empty window has no largest pixel",
        lambda: KERNELS.max_pool(read(), images(height=2, width=2), windows(last=(0, 4)), 1),
    ),
    "gradients of maxima of nothing": ("empty window", lambda: max_backward(of=windows(last=(0, 4)))),
    "gradients of other sides": ("one height and width", lambda: max_backward(x=images(height=5))),
    "gradients in place of the input": ("shares memory", lambda: max_backward(*shared())),
    "gradients in place of the outputs'": (
        "one window for each|shares memory",
        lambda: max_backward(out=(one := images()), gradient=one),
    ),
    "maxima of sums": (
        "no sum of two activations",
        lambda: KERNELS.max_pool(
            _kernels.Input.combined(images(), images(), *[by_channel()] * 3),
            images(height=2, width=2),
            windows(),
            1,
        ),
    ),
    "a mask of another shape": ("one shape and border", lambda: max_backward(mask=mask(height=5), sums=sums())),
    "a mask without sums": ("sums", lambda: max_backward(mask=mask())),
    "sums of other channels": (r"sums are \(channels, 2\)", lambda: max_backward(mask=mask(), sums=sums(3))),
    "a channel beyond the last": ("no such channel", lambda: gather(places(2))),
    "no channel": ("does not have as many channels", lambda: gather(places())),
    "too many channels": ("does not have as many channels", lambda: gather(places(0, 1, 0))),
    "channels behind the last": ("does not have as many channels", lambda: gather(places(0), first=2)),
    "channels before the first": ("does not have as many channels", lambda: gather(places(0), first=-1)),
    "channels of other images": ("more than the channels", lambda: gather(places(0), x=images(width=6))),
    "channels of features": ("more than the channels", lambda: gather(places(0), x=features())),
    "channels in place": ("shares memory", lambda: gather(places(1, 0), *shared())),
    "features of another length": ("not as many features", lambda: KERNELS.flatten(images(), features(), True, 1)),
    "flattened features": ("not images and their features", lambda: KERNELS.flatten(features(), features(), True, 1)),
    "features of other batches": (
        "different batches",
        lambda: KERNELS.unflatten(features(2, channels=40), images(), None, True, 1),
    ),
    "images of another border": (
        "one shape and border",
        lambda: KERNELS.unflatten(features(channels=40), images(), images(border=2), False, 1),
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_arguments_that_do_not_fit_are_refused(what: str) -> None:
    sentence, call = REFUSED[what]
    with pytest.raises(ValueError, match=sentence):
        call()


def test_the_nearest_arguments_that_fit_are_accepted() -> None:
    window_sum()
    window_sum(by_input=True, row_factors=ones(4), column_factors=ones(5))
    window_sum(of=windows(first=(4, 4), last=(4, 4)))
    max_backward()
    max_backward(mask=mask(), sums=sums())
    gather(places(-1, 1))
    gather(places(1), first=1)
    out = images()
    gather(places(1, 0), out=out, add=out)


def test_windows_that_are_written_to_afterwards_stay_as_they_were() -> None:
    first, last = places(0, 2), places(2, 4)
    made = _kernels.Windows(first, last, first, last)
    first[:], last[:] = 10**6, 2 * 10**6
    window_sum(of=made)


def test_gathering_leaves_other_channels_as_they_are() -> None:
    array = memory(channels=4)
    array[:, 1:-1, :, 1:-1] = 5
    gather(places(0, -1), out=_kernels.Activation(array, 1, 3, False), first=1)
    assert np.all(array[:, 1:-1, [0, 3], 1:-1] == 5)
    assert not array[:, :, 1:3].any()


@pytest.mark.parametrize("steps", STEPS_AT_ONCE)
def test_steps_may_differ_between_rows_and_columns(steps: tuple[Any, Any]) -> None:
    x_step, out_step = steps
    made = _kernels.Steps(x_step, out_step)
    x = _kernels.Input(images(height=8, width=10))
    KERNELS.convolve(x, images(), None, weights(0), made, None, 1)
    for wrong in ((0, 1), (1, -1), (1, 2**31)):
        with pytest.raises(ValueError, match="steps"):
            _kernels.Steps(wrong)
    for wrong in ((1,), (1, 2, 3), "two", 1.5, (1.0, 2)):
        with pytest.raises(TypeError):
            _kernels.Steps(wrong)


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.kernels.name)
def test_kernels_of_other_lanes_refuse_a_buffer(machine: Any) -> None:
    array = aligned_zeros((1, 6, 2, 7, 2 * machine.kernels.lanes))
    x = _kernels.Activation(array, 1, 3, False)
    with pytest.raises(ValueError, match="another number of lanes"):
        machine.kernels.gather_channels(x, places(0), x, 0, None, 1)

"""The kernels check their arguments: no call from Python accesses memory outside its buffers."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sparsecore_cpu._kernels")

from kernel_arguments import (
    BEFORE,
    BELOW,
    KERNELS,
    LANES,
    backward,
    by_channel,
    convolve,
    features,
    images,
    mask,
    places,
    read,
    sums,
    weights,
)

from sparsecore_cpu import _kernels


def whole(lanes: int = LANES) -> Any:
    """Memory of (1, 6, 2, 7, lanes), which begins at a cache line."""
    floats = np.zeros(6 * 2 * 7 * lanes + 16, np.float32)
    start = -floats.ctypes.data % 64 // 4
    return floats[start : start + 6 * 2 * 7 * lanes].reshape(1, 6, 2, 7, lanes)


REFUSED: dict[str, tuple[str, Callable[[], Any]]] = {
    "a border wider than the buffer": ("border is wider", lambda: _kernels.Activation(whole(), 4, 1, False)),
    "a negative border": ("border is wider", lambda: _kernels.Activation(whole(), -1, 1, False)),
    "no images": ("do not fill", lambda: _kernels.Activation(whole(), 1, 0, False)),
    "more images than lanes": ("do not fill", lambda: _kernels.Activation(whole(), 1, LANES + 1, False)),
    "features in rows": ("one block, one row", lambda: _kernels.Activation(whole(), 0, 7 * LANES, True)),
    "memory off a cache line": (
        "cache line",
        lambda: _kernels.Activation(
            whole().reshape(-1)[LANES // 2 :][: 6 * LANES].reshape(1, 1, 1, 6, LANES), 0, 1, False
        ),
    ),
    "no input block": ("whole input blocks", lambda: _kernels.Weights(places(0), places(), by_channel(0), 2)),
    "part of an input block": (
        "whole input blocks",
        lambda: _kernels.Weights(places(0, 0), places(), by_channel(0), 2),
    ),
    "no channel": ("whole input blocks", lambda: _kernels.Weights(places(0, 0), places(), by_channel(0), 0)),
    "values that are missing": (
        "as many values",
        lambda: _kernels.Weights(places(0, 2), places(0, 1), by_channel(1), 1),
    ),
    "pointers that end early": ("from 0 to", lambda: _kernels.Weights(places(0, 1), places(0, 1), by_channel(2), 1)),
    "pointers that start late": ("from 0 to", lambda: _kernels.Weights(places(1, 2), places(0, 1), by_channel(2), 1)),
    "pointers that turn": ("from 0 to", lambda: _kernels.Weights(places(0, 3, 2), places(0, 1), by_channel(2), 2)),
    "another number of lanes": (
        "number of lanes",
        lambda: convolve(x=_kernels.Input(_kernels.Activation(whole(2 * LANES), 1, 3, False))),
    ),
    "batches that differ": ("different batches", lambda: convolve(x=read(count=2))),
    "channels that differ": ("number of channels", lambda: convolve(listed=weights(0, channels=3))),
    "reading below the border": ("beyond the input", lambda: convolve(listed=weights(BELOW))),
    "reading before the border": ("beyond the input", lambda: convolve(listed=weights(BEFORE))),
    "reading far below": ("beyond the input", lambda: convolve(listed=weights(2**31 - LANES))),
    "reading far before": ("beyond the input", lambda: convolve(listed=weights(-(2**31)))),
    "strides beyond the input": ("beyond the input", lambda: convolve(steps=_kernels.Steps(x_step=2))),
    "outputs larger than the input": ("beyond the input", lambda: convolve(out=images(height=9))),
    "no step": ("steps are positive", lambda: convolve(steps=_kernels.Steps(x_step=0))),
    "a row before the first": ("steps are positive", lambda: convolve(steps=_kernels.Steps(row=-1))),
    "a start of another shape": ("one shape and border", lambda: convolve(add=images(width=6))),
    "a start of another border": ("one shape and border", lambda: convolve(add=images(border=2))),
    "sums of another shape": (
        r"sums are \(channels, 2\)",
        lambda: KERNELS.convolve(read(), images(), None, weights(0), _kernels.Steps(), sums(3), 1),
    ),
    "a mask of another shape": (
        "one shape and border",
        lambda: KERNELS.convolve_masked(
            read(), images(), None, weights(0), _kernels.Steps(), mask(height=5), sums(), 1
        ),
    ),
    "a mask of few channels": ("one entry a channel", lambda: _kernels.Mask(images(), *[by_channel(1)] * 3)),
    "gradients that are missing": (
        "as many gradients",
        lambda: KERNELS.weight_gradient(read(), read(), weights(0, 1), _kernels.Steps(), by_channel(1), 1),
    ),
    "gradients of some outputs": (
        "of all outputs",
        lambda: KERNELS.weight_gradient(read(), read(), weights(0), _kernels.Steps(out_step=2), by_channel(1), 1),
    ),
    "shapes that differ": (
        "one shape",
        lambda: KERNELS.affine(images(), images(width=6), by_channel(), by_channel(), 1),
    ),
    "factors that are missing": (
        "one entry",
        lambda: KERNELS.affine(images(), images(), by_channel(1), by_channel(), 1),
    ),
    "a buffer of doubles": (
        "floats, or one of images their upper halves",
        lambda: _kernels.Activation(np.zeros((1, 6, 2, 7, LANES)), 1, 1, False),
    ),
    "features in halves": (
        "floats, or one of images their upper halves",
        lambda: _kernels.Activation(np.zeros((1, 1, 2, 1, LANES), np.uint16), 0, 1, True),
    ),
    "means that are missing": ("one entry", lambda: KERNELS.moments(images(), by_channel(3), sums(), 1)),
    "products of two shapes": (
        "one shape",
        lambda: KERNELS.gradient_sums(images(), images(height=5), by_channel(), sums(), 1),
    ),
    "pooling into other channels": ("not those of the images", lambda: KERNELS.pool(images(), features(channels=3), 1)),
    "pooling into images": ("not those of the images", lambda: KERNELS.pool(images(), images(), 1)),
    "spreading to other batches": (
        "not those of the images",
        lambda: KERNELS.pool_backward(features(count=3 * LANES), images(), None, 1),
    ),
    "a key that is no bucket": (
        "no bucket",
        lambda: _kernels.sort_by_bucket(places(0, 3), places(0, 0), places(0, 0, 0)),
    ),
    "a negative key": ("no bucket", lambda: _kernels.sort_by_bucket(places(-1), places(0), places(0, 0))),
    "an order that is too short": (
        "one entry a key",
        lambda: _kernels.sort_by_bucket(places(0, 0), places(0), places(0, 0)),
    ),
    "no place for pointers": ("one entry a key", lambda: _kernels.sort_by_bucket(places(), places(), places())),
    "more listed than there are places": (
        "one place for each",
        lambda: _kernels.gather(by_channel(2), places(0), np.zeros(2, np.float32), 1),
    ),
    "a place beyond the entries": (
        "beyond the entries",
        lambda: _kernels.gather(by_channel(2), places(0, 3), np.zeros(2, np.float32), 1),
    ),
    "a negative place": (
        "beyond the entries",
        lambda: _kernels.scatter(by_channel(1), places(-1), np.zeros(2, np.float32), 1),
    ),
    "a gradient by other strides": ("other strides", lambda: backward(steps=_kernels.Steps(out_step=2))),
    "a gradient of images that are no multiple": (
        "as many pixels",
        lambda: backward(read(height=8, width=10), 2, _kernels.Steps(out_step=2)),
    ),
    "a gradient before the border": ("beyond the input's border", lambda: backward(behind=weights(BEFORE - LANES))),
    "pictures of another size": (
        "do not fit",
        lambda: KERNELS.pack(np.zeros((3, 4, 6, 2), np.float32), images(), 1),
    ),
    "another number of pictures": ("do not fit", lambda: KERNELS.pack(np.zeros((2, 4, 5, 2), np.float32), images(), 1)),
    "kernels of no name that there is": ("no kernels named 'avx3'", lambda: _kernels.Kernels("avx3")),
}


@pytest.mark.parametrize("what", REFUSED)
def test_accesses_outside_a_buffer_are_refused(what: str) -> None:
    sentence, call = REFUSED[what]
    with pytest.raises(ValueError, match=sentence):
        call()


def test_the_nearest_accesses_inside_a_buffer_are_accepted() -> None:
    convolve()
    convolve(listed=weights(BELOW - 2 * 7 * LANES, BEFORE + LANES))
    convolve(steps=_kernels.Steps(out_step=9, row=9))
    convolve(x=read(height=9, width=11), out=images(), steps=_kernels.Steps(x_step=2))
    _kernels.Activation(whole(), 2, 1, False)
    KERNELS.pool(images(), features(), 1)
    backward()
    _kernels.gather(by_channel(2), places(0, 2), np.zeros(2, np.float32), 1)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("count", [0, 1, 200_000])
def test_a_list_takes_its_values_from_the_entries_and_gives_gradients_back(count: int, threads: int) -> None:
    rng = np.random.default_rng(count)
    entries, listed = rng.normal(size=count).astype(np.float32), np.full(count + 5, np.nan, np.float32)
    order = rng.permutation(np.concatenate([np.arange(count), np.full(5, count)])).astype(np.int32)
    _kernels.gather(entries, order, listed, threads)
    assert np.array_equal(listed, np.append(entries, 0)[order])
    back = np.full(count, np.nan, np.float32)
    _kernels.scatter(listed, order, back, threads)
    assert np.array_equal(back, entries)

"""Max pooling on planes: the maximum of a plane and of the same one, shifted by each tap of the window."""

import math
from functools import partial
from itertools import product

import numpy as np

from sparsecore_cpu.inference.execution import PlaneCompiler
from sparsecore_cpu.inference.planes import Plane, RowLayout
from sparsecore_cpu.runtime import Floats, aligned_zeros
from sparsecore_cpu.window import Window


def max_pooled(rows: PlaneCompiler, x: Plane, kernel: tuple[int, int], window: Window) -> Plane:
    """The largest pixel of each window.

    Args:
        rows: receives the calls.
        x: an image.
        kernel: height and width of a window in pixels.
        window: its stride, padding and dilation.
    """
    reach = RowLayout.of((x.channels, 1, *kernel), window, x.frame)
    count = math.prod(window.stride) * x.channels
    # memory of its own, because it has another border than zeros
    memory = aligned_zeros((reach.frame.size(count),))
    memory.fill(-np.inf)
    phases = Plane(reach.frame, count, memory)
    rows.copy_phases(x, phases, window.stride, outside=-np.inf)
    out = rows.planes.take(x.channels, reach.outputs)
    taps = np.array(list(product(range(kernel[0]), range(kernel[1]))))
    offsets = reach.offsets(taps[:, 0], taps[:, 1], x.channels, reach.frame)
    first, *others = (_shifted(phases, int(offset), x.channels, out.runs.shape[1]) for offset in offsets)
    rows.calls.append(partial(np.copyto, out.runs, first))
    rows.calls.extend(partial(np.maximum, out.runs, other, out=out.runs) for other in others)
    frame = out.frame
    between = out.runs.reshape(x.channels, frame.height, frame.pitch)[:, :, frame.width :]
    rows.calls.append(partial(between.fill, 0))
    return out


def _shifted(x: Plane, offset: int, channels: int, count: int) -> Floats:
    """So many floats of each of the first channels, from the first pixel and an offset on."""
    first, room = x.frame.start + offset, x.frame.room
    read = x.memory[first : first + (channels - 1) * room + count]
    return np.lib.stride_tricks.as_strided(read, (channels, count), (room * read.itemsize, read.itemsize))

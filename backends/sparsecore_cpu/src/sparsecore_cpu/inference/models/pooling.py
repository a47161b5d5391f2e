"""Max pooling on planes."""

import math
from itertools import product

import numpy as np

from sparsecore_cpu._kernels import RowMaximum
from sparsecore_cpu.inference.execution import PlaneCompiler
from sparsecore_cpu.inference.planes import Plane, RowLayout, fitting
from sparsecore_cpu.runtime import aligned_zeros
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
    maximum = RowMaximum(
        x=memory,
        x_start=reach.frame.start,
        x_stride=reach.frame.room,
        out=out.memory,
        out_start=out.frame.start,
        out_stride=out.frame.room,
        channels=x.channels,
        offsets=fitting(offsets, f"max pooling of {x.channels} channels"),
        inside=out.frame.inside,
    )
    rows.calls.append_threaded(maximum.run)
    return out

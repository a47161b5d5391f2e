"""Plots of a training: where its weights moved, how sparse its tensors were, and their masks."""

import io
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sparsecore.engine.arrays import Counts
from sparsecore.engine.topology import Topology
from sparsecore.errors import InputError, printable, unknown
from sparsecore.extras import require
from sparsecore.observers.history import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_MASKS = 12
_MOST_NAMES = 40
_MASK_PIXELS = 256
"""The most pixels of a mask's picture along one side; larger masks are shown as mean densities of patches."""


def plot_training(topology: Topology, start: Sequence[int], history: History, tensors: str = "*") -> "Figure":
    """Draw a training: weights moved and sparsity by tensor over updates, and the present masks.

    Args:
        topology: the active positions now.
        start: the active weights of each tensor at the start.
        history: the updates so far.
        tensors: a glob on names of tensors; the others are left out.

    Returns:
        A figure of matplotlib, which notebooks show; it belongs to no window and need not be closed.

    Raises:
        InputError: no tensor has such a name.
        MissingPackageError: matplotlib is not installed.
    """
    require("matplotlib", extra="report", purpose="a plot")
    layout = topology.layout
    chosen = [index for index, name in enumerate(layout.names) if fnmatchcase(name, tensors)]
    if not chosen:
        raise InputError(unknown("sparse tensor", tensors, layout.names))
    pictures = chosen[:_MOST_MASKS]
    rows = -(-len(pictures) // 4)
    figure = _figure((12.0, 4.2 + 2.4 * rows))
    halves: Any = figure.subfigures(2, 1, height_ratios=(4.2, 2.4 * rows))
    above, below = halves
    left, right = above.subplots(1, 2)
    names = [printable(name) for name in layout.names]
    _plot_moves(left, history, topology, chosen, names)
    _plot_sparsities(right, history, start, topology, chosen, names)
    left_out = len(chosen) - len(pictures)
    below.suptitle("masks: active weights are dark" + (f" ({left_out} more tensors)" if left_out else ""))
    grid = below.subplots(rows, 4, squeeze=False)
    for axes in grid.flat[len(pictures) :]:
        axes.set_axis_off()
    for axes, tensor in zip(grid.flat, pictures, strict=False):
        axes.imshow(mask_picture(topology, layout.names[tensor]), cmap="Greys", vmin=0, aspect="auto")
        axes.set_title(names[tensor], fontsize="small", parse_math=False)
        axes.set_xticks([])
        axes.set_yticks([])
    return figure


def _plot_moves(axes: "Axes", history: History, topology: Topology, chosen: list[int], names: list[str]) -> None:
    """Draw for each tensor which share of its positions was pruned or grown in each entry of the history."""
    axes.set_title("where the weights moved")
    axes.set_yticks(range(len(chosen)), [names[tensor] for tensor in chosen], fontsize="x-small", parse_math=False)
    if len(chosen) > _MOST_NAMES:
        axes.set_yticks([])
    axes.set_xlabel("optimizer step of the update")
    if not history.entries:
        _say_no_update(axes)
        return
    sizes = np.asarray(topology.layout.sizes)
    shares = np.stack([(entry.pruned + entry.grown) / sizes for entry in history.entries], axis=1)[chosen]
    image = axes.imshow(shares, cmap="Blues", vmin=0, aspect="auto", interpolation="nearest")
    ticks = np.unique(np.linspace(0, len(history.entries) - 1, 6).astype(int))
    axes.set_xticks(ticks, [f"{history.entries[tick].step:,}" for tick in ticks])
    axes.figure.colorbar(image, ax=axes, label="share of positions pruned or grown")


def _plot_sparsities(
    axes: "Axes", history: History, start: Sequence[int], topology: Topology, chosen: list[int], names: list[str]
) -> None:
    """Draw the sparsity of each tensor over the optimizer steps."""
    axes.set_title("sparsity by tensor")
    axes.set_xlabel("optimizer step")
    steps = [0, *(entry.step for entry in history.entries)]
    active: list[Counts] = [np.asarray(start), *(entry.active for entry in history.entries)]
    sparsities = 1 - np.stack(active) / np.asarray(topology.layout.sizes)
    for tensor in chosen:
        axes.plot(steps, sparsities[:, tensor], marker="." if len(steps) <= _MOST_NAMES else "", label=names[tensor])
    if len(chosen) <= _MOST_NAMES // 2:
        # given as lists, since matplotlib leaves out labels that begin with an underscore
        legend = axes.legend(axes.get_lines(), [names[tensor] for tensor in chosen], fontsize="x-small", frameon=False)
        for text in legend.get_texts():
            text.set_parse_math(False)
    if not history.entries:
        _say_no_update(axes)


def _say_no_update(axes: "Axes") -> None:
    axes.text(0.5, 0.5, "no update yet", transform=axes.transAxes, ha="center", va="center")


def mask_picture(topology: Topology, name: str) -> NDArray[np.float64]:
    """Return a tensor's mask as a picture.

    Args:
        topology: the active positions.
        name: the tensor's name.

    Returns:
        The mask as a matrix of outputs by all other dimensions, at most 256 by 256: each pixel is the density of a
        patch, in [0, 1].

    Raises:
        InputError: there is no such tensor.
    """
    layout = topology.layout
    shape = layout.shapes[layout.index(name)]
    height = shape[0] if len(shape) > 1 else 1
    width = layout.sizes[layout.index(name)] // height
    rows, columns = min(height, _MASK_PIXELS), min(width, _MASK_PIXELS)
    local = topology.local(name)
    # of the positions, so that no mask of the dense size is needed
    places = (local // width) * rows // height * columns + (local % width) * columns // width
    active = np.bincount(places, minlength=rows * columns).reshape(rows, columns)
    patches = np.outer(_patch_sizes(height, rows), _patch_sizes(width, columns))
    picture: NDArray[np.float64] = active / patches
    return picture


def _patch_sizes(side: int, pixels: int) -> NDArray[np.int64]:
    return np.bincount(np.arange(side) * pixels // side, minlength=pixels)


def _figure(size: tuple[float, float]) -> "Figure":
    """Return a figure that notebooks show, also where pyplot, which keeps figures open, is not imported."""
    from matplotlib.figure import Figure

    class NotebookFigure(Figure):
        def _repr_png_(self) -> bytes:
            buffer = io.BytesIO()
            self.savefig(buffer, format="png", dpi=80)
            return buffer.getvalue()

    options: dict[str, Any] = {"figsize": size, "layout": "constrained"}
    return NotebookFigure(**options)

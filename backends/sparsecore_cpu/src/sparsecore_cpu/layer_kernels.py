"""What the kernels of a layer with weights compute: those of convolutions, and those of linear layers."""

from typing import Any, Protocol

from numpy.typing import NDArray

from sparsecore_cpu._kernels import Mask
from sparsecore_cpu.runtime import Buffer, Floats, KernelInput, Sums


class WeightKernels(Protocol):
    """Calls the kernels of one layer on memory that the caller provides.

    Images have a border of at least the padding, and output gradients that are passed on one of
    :meth:`sparsecore_cpu.window.Window.border_behind` pixels. ``values`` are those of the active weights, float32,
    (count,), in the order of their positions. An activation that is added may be the one that is written. All methods
    raise a ``ValueError`` where a buffer does not fit the layer, and an ``InputError`` where offsets do not fit into 32
    bits.
    """

    def forward(
        self, x: KernelInput, values: NDArray[Any], out: Buffer, add: Buffer | None = None, sums: Sums | None = None
    ) -> None:
        """Write the layer's outputs, plus ``add``.

        Args:
            x: the input.
            values: (count,).
            out: the memory of the output.
            add: an activation of the output's form that is added, if any.
            sums: float64, (channels, 2), to which the sums of the outputs and of their squares are added; or None.
        """
        ...

    def forward_biased(
        self, x: KernelInput, values: NDArray[Any], bias: Floats, out: Buffer, add: Buffer | None = None
    ) -> bool:
        """Write the layer's outputs, plus a bias and ``add``, in one pass, where the kernels can.

        Args:
            x: the input.
            values: (count,).
            bias: float32, by output channel, (channels,).
            out: the memory of the output.
            add: an activation of the output's form that is added, if any.

        Returns:
            Whether they can; otherwise nothing has been written.
        """
        ...

    def backward_weight(self, x: KernelInput, gradient: KernelInput) -> Floats:
        """Return the gradients of the active weights, (count,), summed over the batch and the pixels.

        Args:
            x: the input.
            gradient: the gradient of the output; its border is not read.
        """
        ...

    def backward_input(
        self,
        gradient: KernelInput,
        values: NDArray[Any],
        out: Buffer,
        add: Buffer | None = None,
        mask: Mask | None = None,
    ) -> Sums:
        """Write the gradient of the inputs, plus ``add``, where the mask is.

        Args:
            gradient: the gradient of the output.
            values: (count,).
            out: the memory of the result.
            add: another gradient of the same form that is added, if any.
            mask: where to write the gradient; elsewhere zero is written. None: everywhere.

        Returns:
            The sums of :meth:`backward`.
        """
        ...

    def backward(
        self,
        x: KernelInput,
        gradient: KernelInput,
        values: NDArray[Any],
        out: Buffer,
        add: Buffer | None = None,
        mask: Mask | None = None,
    ) -> tuple[Floats, Sums]:
        """Compute both gradients: write that of the inputs, plus ``add``, where the mask is.

        Args:
            x: the input.
            gradient: the gradient of the output.
            values: (count,).
            out: the memory of the input's gradient.
            add: another gradient of the same form that is added, if any.
            mask: where to write the gradient; elsewhere zero is written. None: everywhere.

        Returns:
            The gradients of the active weights, (count,), and the sums by channel of what was written and of its
            products with the mask's centered input, float64, (channels, 2); zeros without a mask.
        """
        ...

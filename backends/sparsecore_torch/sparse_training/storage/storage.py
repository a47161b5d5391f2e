"""The interface of a storage, which keeps the weights of the sparse tensors, and the ledger that all storages share."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor
from torch.optim import Optimizer

from sparsecore.engine.reallocation import Reallocation
from sparsecore.engine.topology import Topology
from sparsecore.learning.ledger import Bytes, Ledger
from sparsecore_torch.sparse_training.optimizers.wrapped import tensors_in
from sparsecore_torch.tensors import allocated_bytes, entry_bytes


class Storage(Protocol):
    """The weights of the sparse tensors and their optimizer state: all buffers, and all that changes in place.

    After each optimizer step follow :meth:`enforce`, then, where the engine needs them, :meth:`values`, and
    :meth:`set_values` or :meth:`reallocate` with the result. Autograd records none of these calls.
    """

    def values(self) -> Tensor:
        """Return the N values, not to be written to. Collective where the tensors are sharded.

        Returns:
            (N,), in the order of the topology's positions, at least float32.
        """
        ...

    def set_values(self, values: Tensor) -> None:
        """Replace the N values, for a perturbation; optimizer state stays.

        Args:
            values: (N,), in the order of the topology's positions.
        """
        ...

    def enforce(self) -> None:
        """Make inactive weights and their optimizer state exactly zero, whatever the optimizer did."""
        ...

    def reallocate(self, reallocation: Reallocation) -> None:
        """Move to a new topology and its values.

        Args:
            reallocation: what was pruned and grown; optimizer state follows the weights, zero where a weight grew,
                except for the momentum that the strategies chose.
        """
        ...

    def restore(self, topology: Topology) -> None:
        """Take up a saved topology without changing a value: the model has loaded its values, or will load them.

        Args:
            topology: the active positions from now on.
        """
        ...

    def check_written(self, name: str | None = None, *, thoroughly: bool = False) -> None:
        """Check that nothing but the training has written weights that do not belong to the topology.

        Args:
            name: the tensor to check; None checks all.
            thoroughly: whether to check tensors that have not been written to as far as torch counts writes.

        Raises:
            InputError: a weight is nonzero that is not active, or values belong to another topology.
        """
        ...

    def nonzero_positions(self) -> Tensor:
        """Return the positions of all nonzero weights, active or not; ascending, int64.

        Raises:
            InputError: the storage has no memory for inactive weights.
        """
        ...

    def expect_gradient(
        self,
        *,
        dense: bool,
        is_step_replaced: bool = False,
        active: bool = False,
        candidates: Topology | None = None,
    ) -> None:
        """Prepare for the gradients of the next step.

        Args:
            dense: whether a strategy asks for the gradients of all positions.
            is_step_replaced: whether an update takes the place of the optimizer's step, which then reads no gradient.
            active: whether a strategy asks for the gradients of the active weights.
            candidates: inactive positions at which a strategy asks for the gradients, where they are not dense.
        """
        ...

    def active_gradient(self) -> Tensor:
        """Return the gradients of the active weights in the last step, where they were expected.

        Returns:
            (N,), in the order of the topology's positions, at least float32.
        """
        ...

    def candidate_gradient(self) -> Tensor:
        """Return the gradients at the candidates in the last step, where these were expected.

        Returns:
            One entry for each, in the order of their positions, at least float32.
        """
        ...

    def gradient(self, name: str) -> Tensor:
        """Return the dense gradient of a tensor in the last step, which was expected to be dense.

        Args:
            name: of the tensor.

        Returns:
            Row-major, (D_i,).
        """
        ...

    def weight_gradient(self) -> Tensor:
        """Return the gradients of the active weights that the optimizer is about to step by, not to be written to.

        Returns:
            (N,), in the order of the topology's positions, at least float32; zero where none has arrived.
        """
        ...

    def set_weight_gradient(self, weight_gradient: Tensor) -> None:
        """Replace the gradients of the active weights, of the tensors at which one has arrived.

        Args:
            weight_gradient: (N,), in the order of the topology's positions.
        """
        ...

    def stepped_entries(self, name: str, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return where the optimizer has some weights of a tensor.

        Args:
            name: of the tensor.
            indices: row-major indices of active weights in it, ascending, int64.

        Returns:
            The Parameter that the optimizer steps, and the row-major indices of these weights in it, int64.
        """
        ...

    def momentum(self, name: str) -> Tensor | None:
        """Return SGD's momentum of a tensor's active weights. Collective where the tensors are sharded.

        Args:
            name: of the tensor.

        Returns:
            (N_i,), at least float32; None with other optimizers, and before the first step.
        """
        ...

    def squash(self) -> None:
        """Make the model a plain one, with its zeros, and remove every hook from it and its optimizer."""
        ...

    def keep_state_dicts_plain(self) -> None:
        """Let the state dicts of model and optimizer be those of dense parameters, until :meth:`squash`."""
        ...

    def ledger(self) -> Ledger:
        """Return the bytes of values, indices, gradients and optimizer state, of all that the optimizer trains."""
        ...


def ledger_of(optimizer: Optimizer, indices: Sequence[Tensor]) -> Ledger:
    """Count the bytes of all parameters that an optimizer holds, dense ones included.

    Args:
        optimizer: that trains them.
        indices: the tensors that say where weights are, such as masks and positions.

    Returns:
        Bytes of the entries, and bytes of the memory that holds them on this rank.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
    states = [content for parameter in parameters for content in tensors_in(optimizer.state.get(parameter, {}), set())]
    return Ledger(
        values=Bytes(entry_bytes(parameters), allocated_bytes(parameters)),
        indices=Bytes(entry_bytes(indices), allocated_bytes(indices)),
        gradients=Bytes(entry_bytes(trained), allocated_bytes(gradients)),
        optimizer_state=Bytes(entry_bytes(states), allocated_bytes(states)),
    )

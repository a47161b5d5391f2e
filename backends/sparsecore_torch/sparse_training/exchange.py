"""Another optimizer for a training, in place of the one that it has followed so far."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import attrs
from torch import Tensor, nn

from sparsecore.engine.topology import Topology
from sparsecore.errors import InputError
from sparsecore_torch.sparse_training.optimizers.shares import learning_rates_of, shares_of
from sparsecore_torch.sparse_training.optimizers.wrapped import OptimizerLayers, parameter_ids
from sparsecore_torch.sparse_training.parts import TrainingParts
from sparsecore_torch.sparse_training.rollback import undone_on_failure
from sparsecore_torch.sparse_training.young_weights import young_weight_choices


def check_exchange(
    optimizers: Sequence[OptimizerLayers], trained: Sequence[nn.Parameter], before: Sequence[OptimizerLayers]
) -> None:
    """Check that other optimizers hold what the present ones train.

    Args:
        optimizers: the other ones.
        trained: the sparse Parameters, or the one of compact storage.
        before: the present ones.

    Raises:
        InputError: they do not, or one has state that compact storage cannot take over.
    """
    known = {id(one.stepping) for one in before}
    if all(id(one.stepping) in known for one in optimizers) and len(optimizers) == len(before):
        return
    names = ", ".join(type(one.stepping).__name__ for one in optimizers)
    held = set[int]().union(*(parameter_ids(one.stepping) for one in optimizers))
    missing = sum(id(parameter) not in held for parameter in trained)
    if missing:
        raise InputError(
            f"{names} does not hold {missing} of the {len(trained)} Parameters in sparse training; make it of those "
            "that the model has now"
        )
    for layers in optimizers:
        is_new = id(layers.stepping) not in known
        if is_new and any(one.ndim == 1 and layers.stepping.state.get(one) for one in trained):
            raise InputError(
                f"{type(layers.stepping).__name__} has taken steps already, and compact storage cannot take its state "
                "over; call follow(optimizer) before its first step"
            )


def exchange(optimizers: Sequence[OptimizerLayers], old: Sequence[nn.Parameter], new: Sequence[nn.Parameter]) -> None:
    """Replace Parameters by others in the param group that holds the first of them.

    Args:
        optimizers: with their wrappers.
        old: the Parameters that are replaced.
        new: the others, of any number.
    """
    if all(one is other for one, other in zip(old, new, strict=False)):
        return
    gone = {id(parameter) for parameter in old}
    for group in [group for layers in optimizers for group in layers.stepping.param_groups]:
        parameters = group["params"]
        slots = [slot for slot, parameter in enumerate(parameters) if id(parameter) in gone]
        if slots:
            rest = [parameter for parameter in parameters if id(parameter) not in gone]
            parameters[:] = [*rest[: slots[0]], *new, *rest[slots[0] :]]


@contextmanager
def resumed(
    parts: TrainingParts, optimizers: Sequence[OptimizerLayers], topology: Topology, values: Tensor
) -> Iterator[TrainingParts]:
    """Give the parts of a training with these optimizers, and undo all changes if an exception leaves the block.

    Args:
        parts: of the training, whose storage and hooks have ended.
        optimizers: hold the sparse Parameters of the plain model.
        topology: the active positions.
        values: (N,).

    Raises:
        InputError: an optimizer cannot be used.
    """
    sparse = parts.selection.sparse
    shares = shares_of(optimizers, sparse)
    rates = learning_rates_of(shares, [sparse[index] for index in parts.engines.first_of_each])
    with undone_on_failure(parts.model, shares, in_place=True):
        for share in shares:
            share.layers.remember()
        young = young_weight_choices(parts.engines, shares)
        stored = parts.store(shares, topology, values)
        yield attrs.evolve(parts, shares=shares, stored=stored, learning_rates=rates, young=young)

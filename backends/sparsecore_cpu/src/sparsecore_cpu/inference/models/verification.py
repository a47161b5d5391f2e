"""Compares the predictions of a program with those of the PyTorch module that it was taken from."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsecore.errors import InputError
from sparsecore_cpu.inference.models.exporting import evaluation, several

_TOLERANCE = 1e-3
"""How far a prediction may differ from the module's, relative to the largest entry of the module's."""


def check_predicts_alike(model: Any, example: Any, predict: Callable[[NDArray[Any]], NDArray[np.float32]]) -> None:
    """Check that a program computes what its module computes, for a batch and for its examples alone.

    Args:
        model: the module.
        example: an input of it.
        predict: the predictions of the program.

    Raises:
        InputError: they differ.
    """
    import torch

    batch = _varied(example)
    with evaluation(model):
        returned, of_one = model(batch), _of_one(model, batch[:1])
    if not isinstance(returned, torch.Tensor):
        raise InputError(f"a model that returns one tensor is taken over; this one returns {type(returned).__name__}")
    expected = returned.numpy()
    given = batch.numpy()
    alone = [predict(given[number : number + 1]) for number in range(len(given))]
    compared = [
        (predict(given), expected, "of a batch"),
        (np.concatenate(alone), expected, "of its examples one by one"),
    ]
    if of_one is not None and of_one.numel() == alone[0].size:
        # a module may leave out the dimension of a batch of one
        compared.append((alone[0], of_one.numpy().reshape(alone[0].shape), "of one example"))
    for predicted, expected, how in compared:
        largest = float(np.abs(expected[np.isfinite(expected)]).max(initial=0))
        if predicted.shape != expected.shape or not np.allclose(
            predicted, expected, rtol=_TOLERANCE, atol=_TOLERANCE * max(largest, 1e-6), equal_nan=True
        ):
            raise InputError(
                f"the predictions {how} are not those of the model within {_TOLERANCE:g}: it computes something that "
                "depends on the other examples of a batch, on their number or on random numbers, or there is a mistake"
            )


def _of_one(model: Any, example: Any) -> Any | None:
    """What the module computes for one example; None where it takes only larger batches."""
    try:
        return model(example)
    except Exception:  # of the module
        return None


def _varied(example: Any) -> Any:
    """A batch of examples that differ: those given, and the same backwards along the last dimension."""
    import torch

    return torch.cat([several(example), example.flip(-1)]) if example.ndim > 1 else several(example)

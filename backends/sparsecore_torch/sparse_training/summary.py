"""The summary of a training of a torch model."""

from sparsecore.engine.groups import GroupStates
from sparsecore.observers.history import History
from sparsecore.sparse_training.summary import Summary
from sparsecore_torch.sparse_training.parts import TrainingParts
from sparsecore_torch.sparse_training.silent_weights import SilentWeights
from sparsecore_torch.tensors import is_sharded


def summary_of(
    parts: TrainingParts, state: GroupStates, start: tuple[int, ...], history: History, hidden: SilentWeights
) -> Summary:
    """Return the summary of a training now.

    Args:
        parts: of the training.
        state: the present one.
        start: the number of active weights that each tensor had at the start.
        history: the updates so far.
        hidden: the weights that the model does not compute with.
    """
    # gathering sharded values is collective, and one rank alone may call for a summary
    is_any_sharded = any(is_sharded(one.parameter) for one in parts.selection.sparse)
    return Summary(
        topology=state.topology,
        start=start,
        left_out=parts.selection.left_out,
        clock=state.clock,
        zeros=None if is_any_sharded else int((hidden.values() == 0).sum()),
        silent=hidden.number(state.topology),
        by_name=parts.selection.by_name,
        groups=parts.engines.described(),
        history=history,
    )

"""Sparse trainings that a trainer begins, saves and ends, in the order in which it makes optimizers and loads them."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, final
from weakref import ref

from torch import nn
from torch.optim import Optimizer

from sparsecore.engine.topology import Topology
from sparsecore.errors import InputError, listed, unknown
from sparsecore_torch.distributed.ranks import present_ranks
from sparsecore_torch.sparse_training.model.parameters import unwrapped
from sparsecore_torch.sparse_training.model.selection import select
from sparsecore_torch.sparse_training.optimizers.wrapped import layers_of
from sparsecore_torch.sparse_training.sparsify import sparsify
from sparsecore_torch.sparse_training.training import SparseTraining

_SHOWN = 8
"""The number of tensors that an error sentence names."""
_TRAININGS = "trainings"
"""The key of the state dicts of the single trainings."""
_OPTIONS = frozenset(
    name for name, one in inspect.signature(sparsify).parameters.items() if one.kind is one.KEYWORD_ONLY
)
"""The names of the options of ``sparsify``."""
_OF_DRAWN_STARTS: Mapping[str, Any] = MappingProxyType(
    {"scope": "tensor", "distribution": None, "budget": None, "example": None}
)
"""The options of ``sparsify`` that have no meaning where the active weights are given, and their defaults."""


@final
class ManagedTrainings:
    """The sparse trainings of one model under a trainer: one for each optimizer that holds sparse tensors.

    Checkpoints of the trainer are those of a plain model, in any storage. On resumption the trainer loads model and
    optimizers first; the trainings begin afterwards, with their saved state.

    Args:
        options: keyword arguments of ``sparsify``.

    Raises:
        InputError: ``sparsify`` has no such argument.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        for name in options:
            if name not in _OPTIONS:
                raise InputError(unknown("option of sparsify", name, sorted(_OPTIONS)))
        self._options = dict(options)
        self._trainings: tuple[SparseTraining, ...] = ()
        self._saved: Mapping[str, Any] | None = None
        self._ended: tuple[Topology, ...] = ()
        self._model: Callable[[], nn.Module | None] = lambda: None

    @property
    def trainings(self) -> tuple[SparseTraining, ...]:
        """Those that are under way."""
        return self._trainings

    @property
    def single(self) -> SparseTraining:
        """The only training.

        Raises:
            InputError: none is under way, or several are.
        """
        if len(self._trainings) != 1:
            raise InputError(
                f"{len(self._trainings)} sparse trainings are under way; they begin with the trainer's first step, end "
                "with its last one, and there is one for each optimizer, in 'trainings'"
            )
        return self._trainings[0]

    def option(self, name: str) -> Any:
        """Return an option as it was given, or None."""
        return self._options.get(name)

    def begin(
        self,
        model: nn.Module,
        optimizers: Sequence[Optimizer],
        *,
        total_steps: int | None = None,
        steps_per_epoch: int | None = None,
        continues: bool = True,
        plain: bool = True,
    ) -> None:
        """Begin the trainings; those that are under way end first.

        Args:
            model: may be wrapped.
            optimizers: that hold the model's parameters.
            total_steps: unless the options have it.
            steps_per_epoch: unless the options have it.
            continues: whether trainings of this model that have ended go on, with the trainer. Otherwise they begin
                anew, on the active weights that they had. A state that has been loaded goes on in any case.
            plain: whether state dicts of model and optimizers are to be those of a dense model.

        Raises:
            InputError: as in ``sparsify``; or the saved state is of another number of optimizers, or not that of the
                weights that the model has loaded.
        """
        if plain and self.option("storage") == "compact" and present_ranks().size > 1:
            raise InputError(
                "among several processes a trainer wraps the model before there is an optimizer, and the wrapper holds "
                "on to the parameters that compact storage replaces; take storage='masked'"
            )
        self.end()
        if self._ended and self._model() is not unwrapped(model):
            self._saved, self._ended = None, ()
        is_loaded = self._saved is not None and not self._ended
        steps = {"total_steps": total_steps, "steps_per_epoch": steps_per_epoch}
        options = {**{name: count for name, count in steps.items() if count is not None}, **self._options}
        parts = list(self._parts(model, optimizers))
        if len(parts) > 1 and self.option("budget") is not None:
            raise InputError(
                f"budget= is the number of weights of one training, and {len(parts)} optimizers have one each; give "
                "sparsity="
            )
        starts = self._starts(len(parts), continues)
        begun: list[SparseTraining] = []
        try:
            for (optimizer, names), start in zip(parts, starts, strict=True):
                nonzero = _nonzero(model, start["start"]) if is_loaded else None
                begun.append(sparsify(model, optimizer, **{**options, **names, **start}))
                _check_kept(begun[-1], nonzero)
        except BaseException:
            for training in begun:
                training.squash()
            raise
        for training in begun if plain else ():
            training.keep_state_dicts_plain()
        self._trainings, self._saved, self._ended = tuple(begun), None, ()
        self._model = ref(unwrapped(model))

    def state_dict(self) -> dict[str, Any]:
        """Return the state of all trainings, or that with which they ended; empty if none has begun."""
        if self._trainings:
            return {_TRAININGS: [training.state_dict() for training in self._trainings]}
        return dict(self._saved or {})

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from a saved state: at once if trainings are under way, else when they begin.

        Args:
            saved: of :meth:`state_dict`.

        Raises:
            InputError: it is no such state dict, or of another number of trainings.
        """
        if not isinstance(saved.get(_TRAININGS), list):
            raise InputError(f"this is no state of sparse trainings: it has no list {_TRAININGS!r}")
        if not self._trainings:
            self._saved, self._ended = saved, ()
            return
        self._check_number(len(saved[_TRAININGS]), len(self._trainings))
        for training, state in zip(self._trainings, saved[_TRAININGS], strict=True):
            training.load_state_dict(state)

    def end(self) -> None:
        """End the trainings: the model becomes a plain one with its zeros. Their state is kept.

        Raises:
            InputError: as in :meth:`SparseTraining.squash`.
        """
        if not self._trainings:
            return
        saved, ended = self.state_dict(), tuple(training.topology for training in self._trainings)
        for training in self._trainings:
            training.squash()
        self._trainings, self._saved, self._ended = (), saved, ended

    def _parts(self, model: nn.Module, optimizers: Sequence[Optimizer]) -> Iterator[tuple[Optimizer, dict[str, Any]]]:
        """Yield each optimizer that holds sparse tensors, and the options that select these."""
        if len(optimizers) == 1:
            yield optimizers[0], {}
            return
        sparse = select(unwrapped(model), self._options.get("include"), self._options.get("exclude")).sparse
        held = [
            {id(parameter) for group in layers_of(one).stepping.param_groups for parameter in group["params"]}
            for one in optimizers
        ]
        missing = [one.name for one in sparse if not any(id(one.parameter) in own for own in held)]
        if missing:
            raise InputError(
                f"{listed(missing, _SHOWN)} are in none of the {len(optimizers)} optimizers; leave them dense "
                "with exclude="
            )
        for optimizer, own in zip(optimizers, held, strict=True):
            names = [_glob(one.name) for one in sparse if id(one.parameter) in own]
            if names:
                yield optimizer, {"include": names, "exclude": None}

    def _starts(self, count: int, continues: bool) -> list[dict[str, Any]]:
        if self._saved is None:
            return [{}] * count
        if continues or not self._ended:
            starts: Sequence[Any] = self._saved[_TRAININGS]
        else:
            starts = self._ended
        self._check_number(len(starts), count)
        return [{**_OF_DRAWN_STARTS, "start": start} for start in starts]

    def _check_number(self, saved: int, here: int) -> None:
        if saved != here:
            raise InputError(
                f"the saved state is that of {saved} sparse trainings, and {here} optimizers hold sparse tensors here; "
                "resume with the model and the optimizers that were saved"
            )


def _nonzero(model: nn.Module, saved: Mapping[str, Any]) -> int:
    """Return the number of nonzero weights in the tensors of a saved training, as far as the model has them."""
    tensors = dict(unwrapped(model).named_parameters(remove_duplicate=False))
    return sum(int(tensors[name].count_nonzero()) for name in saved.get("tensors", ()) if name in tensors)


def _check_kept(training: SparseTraining, nonzero: int | None) -> None:
    """Check that no nonzero weight of a loaded model was lost to the positions of a saved training."""
    kept = int((training.values() != 0).sum())
    if nonzero is not None and kept != nonzero:
        raise InputError(
            f"the model has been loaded with {nonzero} nonzero weights, of which {kept} are active in the saved state "
            "of its sparse training: model and training were not saved together"
        )


def _glob(name: str) -> str:
    """Return a glob that matches this name alone."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)

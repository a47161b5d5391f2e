"""The settings of a run's start: which weights are active at first, and with which values."""

from typing import Any, Literal

import attrs

from sparsecore.errors import InputError, unknown

ACTIVE = ("random", "magnitude", "nonzero", "densities")
"""What ``start.active`` can be besides the path of a file; the first three are words of ``sparsify(start=)``, too."""

SUFFIX = ".safetensors"
"""The ending of files with masks, positions or weights."""


def gives_active(table: Any) -> bool:
    """Return whether the start itself gives the active weights, so that no sparsity is needed.

    Args:
        table: the table ``start`` as written; nothing is checked.
    """
    active = table.get("active")
    return "run" in table if active is None else active not in ("random", "magnitude")


def _check_share(_: object, attribute: "attrs.Attribute[Any]", share: float) -> None:
    if not 0 <= share < 1:
        raise InputError(f"{attribute.name} is a share of all weights in [0, 1); given {share}")


def _check_active(_: object, attribute: "attrs.Attribute[Any]", active: str | None) -> None:
    if active is not None and active not in ACTIVE and not active.endswith(SUFFIX):
        raise InputError(
            f"{unknown(attribute.name, active, ACTIVE)}; or the path of a {SUFFIX} file of masks or positions"
        )


def _check_weights(_: object, attribute: "attrs.Attribute[Any]", weights: str | None) -> None:
    if weights is not None and not weights.endswith(SUFFIX):
        raise InputError(f"{attribute.name} is the path of a {SUFFIX} file; given {weights!r}")


_optional_path: Any = attrs.validators.optional(attrs.validators.min_len(1))
_optional_epoch: Any = attrs.validators.optional(attrs.validators.ge(1))


@attrs.frozen
class StartSettings:
    """The start of a run from existing weights, of another run or in a file.

    Attributes:
        run: the folder of a finished run, with whose last topology this one starts unless ``active`` says otherwise.
        values: 'original', the initial values of that run, also at positions that it did not start with; 'fresh', new
            random values of this run's seed; 'trained', the final values of that run; 'rewound', its values at the end
            of an earlier epoch, from which this run continues with its own schedules and batches.
        epoch: the epoch of 'rewound', which that run has kept.
        prune: the fraction of that run's weights that are pruned first, those of smallest |w| at its end, over the
            whole network; every tensor keeps its largest.
        weights: a safetensors file with the parameters of the network by name, in their dense shapes.
        drawn: globs on names of parameters that are drawn by the seed all the same, such as a new classifier's; they
            need not be in the file.
        active: which weights are active at first: 'random', as the strategy draws them; 'magnitude', the largest
            weights; 'nonzero', all that are not zero; 'densities', at random as many of each tensor as ``run`` ended
            with; or a safetensors file of masks or positions by tensor name.
        scope: where 'magnitude' looks for the largest weights: in each 'tensor', or in the whole 'network'.
    """

    run: str | None = attrs.field(default=None, validator=_optional_path)
    values: Literal["original", "fresh", "trained", "rewound"] | None = None
    epoch: int | None = attrs.field(default=None, validator=_optional_epoch)
    prune: float = attrs.field(default=0.0, validator=_check_share)
    weights: str | None = attrs.field(default=None, validator=_check_weights)
    drawn: tuple[str, ...] = ()
    active: str | None = attrs.field(default=None, validator=_check_active)
    scope: Literal["tensor", "network"] = "tensor"

    def __attrs_post_init__(self) -> None:
        if self.run is None:
            self._refuse_without_run()
        elif self.values is None:
            raise InputError(
                "a run that starts from another one says with which values: 'original', 'fresh', 'trained' or "
                "'rewound'; given no values"
            )
        if (self.epoch is None) == (self.values == "rewound"):
            raise InputError(
                "an epoch belongs to values = 'rewound', and those need it; "
                f"given values = {self.values!r} and epoch = {self.epoch}"
            )
        self._refuse_combinations()

    @property
    def gives_active(self) -> bool:
        """Whether the start itself gives the active weights; otherwise the sparsity says how many there are."""
        return gives_active({key: value for key, value in attrs.asdict(self).items() if value is not None})

    @property
    def active_file(self) -> str | None:
        """The file of masks or positions; None where the active weights do not come from one."""
        return self.active if self.active and self.active.endswith(SUFFIX) else None

    @property
    def keeps_values(self) -> bool:
        """Whether the values have been trained, so that no strategy may change them at the start."""
        return self.weights is not None or self.values in ("trained", "rewound")

    def _refuse_without_run(self) -> None:
        if (self.values, self.epoch, self.prune) != (None, None, 0.0):
            raise InputError(
                "where a run starts from is given by run, the folder of a finished one; given other settings without it"
            )

    def _refuse_combinations(self) -> None:
        if self.active == "densities" and self.run is None:
            raise InputError(
                "active = 'densities' takes the number of active weights of each tensor from run, the folder of a "
                "finished run; given without it"
            )
        if self.run is not None and self.weights is not None:
            raise InputError("the values to start with come from run or from weights; given both")
        if self.drawn and self.weights is None:
            raise InputError("drawn names parameters that are not taken from the file weights; given without that file")
        if self.scope != "tensor" and self.active != "magnitude":
            raise InputError(
                f"scope = {self.scope!r} is for active = 'magnitude' alone, which looks for the largest weights"
            )
        if self.prune and self.active is not None:
            raise InputError(
                "prune takes weights from those that run ended with; given with active, which chooses among all weights"
            )

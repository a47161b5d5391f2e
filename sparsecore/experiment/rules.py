"""The update rule in the table ``training``: ``optimizer`` names it, and its own settings stand beside that key."""

from collections.abc import Mapping
from typing import Any

import attrs

from sparsecore.errors import InputError
from sparsecore.experiment.structure import structure, unstructure
from sparsecore.optimizers import Adam, AdamW, Optimizer, Sgd

DEFAULT_OPTIMIZER = "sgd"

OPTIMIZERS: Mapping[str, type[Optimizer]] = {"sgd": Sgd, "adam": Adam, "adamw": AdamW}

_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "sgd": {"learning_rate": 0.1, "weight_decay": 5e-4},
    "adam": {"learning_rate": 1e-3},
    "adamw": {"learning_rate": 1e-3, "weight_decay": 1e-2},
}
"""What a table leaves out: a learning rate for one rule serves no other."""


def split_training(table: Mapping[str, Any], loop: type) -> tuple[dict[str, Any], Optimizer]:
    """The settings that belong to the class ``loop``, complete with the rule's learning rate, and the rule.

    Raises:
        InputError: no rule has this name, a key is neither the loop's nor this rule's, a wrong value.
    """
    name = table.get("optimizer", DEFAULT_OPTIMIZER)
    if not isinstance(name, str) or name not in OPTIMIZERS:
        raise InputError(f"training.optimizer: one of {', '.join(map(repr, OPTIMIZERS))} was expected, given {name!r}")
    rule, loops, rules = OPTIMIZERS[name], _keys(loop), _keys(OPTIMIZERS[name])
    strange = table.keys() - {"optimizer", *loops, *rules}
    if strange:
        known = ", ".join(["optimizer", *loops, *rules])
        raise InputError(
            f"training: no key named {', '.join(map(repr, sorted(strange)))} with the optimizer {name}; known: {known}"
        )
    complete = {**_DEFAULTS[name], **table}
    options = {key: complete[key] for key in rules if key in complete}
    return {key: complete[key] for key in loops if key in complete}, structure(options, rule, "training")


def rule_table(optimizer: Optimizer) -> dict[str, Any]:
    """The rule's part of the table."""
    names = {rule: name for name, rule in OPTIMIZERS.items()}
    return {"optimizer": names[type(optimizer)], **unstructure(optimizer)}


def _keys(cls: type) -> list[str]:
    return [field.name for field in attrs.fields(cls)]

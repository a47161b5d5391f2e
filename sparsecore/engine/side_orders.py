"""Tensors whose sides are in another order than (outputs, inputs, kernel), and what must not be trained on them.

Strategies that count weights by output, and units such as blocks of outputs and inputs, go by the order of the sides.
"""

from collections.abc import Callable, Mapping

import attrs

from sparsecore.engine.block_grid import Sides
from sparsecore.engine.engine import Engine
from sparsecore.engine.units import Units
from sparsecore.errors import InputError


@attrs.frozen(eq=False)
class SideOrder:
    """The order of a tensor's sides, where it is not (outputs, inputs, kernel).

    Attributes:
        sides: the order, for error sentences.
        unit: returns the unit that units have in mind for such a tensor, from them and its dense shape.
    """

    sides: str
    unit: Callable[[Units, Sides], Sides]


def _with_inputs_first(units: Units, shape: Sides) -> Sides:
    outputs, inputs, *kernel = units.of((shape[1], shape[0], *shape[2:]))
    return (inputs, outputs, *kernel)


def _of_each_expert(units: Units, shape: Sides) -> Sides:
    return (1, *units.of(shape[1:]))


INPUTS_FIRST = SideOrder("(inputs, outputs, kernel)", _with_inputs_first)
EXPERTS_FIRST = SideOrder("(experts, followed by the sides of a matrix)", _of_each_expert)


def check_side_orders(engine: Engine, orders: Mapping[str, SideOrder]) -> None:
    """Check that no strategy and no unit takes other sides for outputs and inputs.

    Args:
        engine: a strategy that counts weights by output has the class attribute ``outputs_first``.
        orders: those of tensors that are not (outputs, inputs, kernel), by name; other names may be among them.

    Raises:
        InputError: one does.
    """
    counting = [name for name, strategy in engine.strategies.items() if getattr(strategy, "outputs_first", False)]
    layout = engine.unit_map.dense
    for name, shape in zip(layout.names, layout.shapes, strict=True):
        order = orders.get(name)
        if order is None:
            continue
        if counting:
            raise InputError(
                f"the strategy {counting[0]!r} counts weights by output, the first side of a tensor, and {name!r} has "
                f"the sides {order.sides}; leave it dense, or train it with another strategy"
            )
        if order.unit(engine.units, shape) != engine.units.of(shape):
            raise InputError(
                f"the units {engine.units} are of tensors with the sides (outputs, inputs, kernel), and {name!r} has "
                f"the sides {order.sides}; leave it dense, or take other units"
            )

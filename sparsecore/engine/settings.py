"""Small values that hyperparameters are made of."""

from fractions import Fraction

import attrs

from sparsecore.errors import InputError


def as_written(number: float) -> Fraction:
    """The decimal that the user wrote, not its binary neighbour: 1.15·100 is 115, not 114.99."""
    return Fraction(repr(float(number)))


@attrs.frozen
class Amount:
    """A number of weights: absolute, or a share of all weights.

    Attributes:
        given: a whole number of at least 1, or a percentage of all weights such as '10%'.
    """

    given: int | str

    def __attrs_post_init__(self) -> None:
        if isinstance(self.given, str):
            share = self._share()
            if not 0.0 < share < 1.0:
                raise InputError(f"a share of all weights lies between 0% and 100%; given {self.given!r}")
        elif isinstance(self.given, bool) or not isinstance(self.given, int) or self.given < 1:
            raise InputError(f"a number of weights is a whole number of at least 1 or like '10%'; given {self.given!r}")

    def of_all(self, weights: int) -> int:
        """The number, where there are ``weights`` in all; at least 1."""
        return max(1, round(self._share() * weights)) if isinstance(self.given, str) else self.given

    def _share(self) -> float:
        try:
            number, percent, rest = str(self.given).partition("%")
            if percent and not rest:
                return float(number) / 100
        except ValueError:
            pass
        raise InputError(f"a number of weights is a whole number or a share such as '10%'; given {self.given!r}")


def as_amount(given: Amount | int | str) -> Amount:
    """The amount, from itself or from what a settings file may hold."""
    return given if isinstance(given, Amount) else Amount(given)

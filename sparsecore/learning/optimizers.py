"""Update rules of optimizers, as values; their formulas and the order of their operations are those of ``torch.optim``.

Below, w is a weight, g its gradient, η the learning rate and λ ``weight_decay``; t counts the optimizer's steps from 1.
"""

from typing import Any, ClassVar, TypeAlias

import attrs

from sparsecore.errors import InputError

_at_least_0: Any = attrs.validators.ge(0)


@attrs.frozen
class Sgd:
    """Stochastic gradient descent with momentum, by default Nesterov's.

    d = g + λ·w; v ← momentum·v + d; w ← w − η·(d + momentum·v) with Nesterov, else w ← w − η·v. Initially v is 0.

    Attributes:
        has_bias_correction: False: steps do not depend on their number.
        momentum: in [0, 1).
        nesterov: whether the step looks ahead along the momentum.
        weight_decay: λ, at least 0.
    """

    has_bias_correction: ClassVar[bool] = False
    momentum: float = attrs.field(default=0.9, validator=[_at_least_0, attrs.validators.lt(1)])
    nesterov: bool = True
    weight_decay: float = attrs.field(default=0.0, validator=_at_least_0)


def _check_betas(_: object, attribute: "attrs.Attribute[Any]", betas: tuple[float, ...]) -> None:
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise InputError(f"{attribute.name} are two numbers in [0, 1); given {betas}")


@attrs.frozen
class Adam:
    """Adam (Kingma & Ba 2015), with weight decay as part of the gradient (L2).

    d = g + λ·w; m ← β₁·m + (1−β₁)·d; s ← β₂·s + (1−β₂)·d²; w ← w − η·m̂ / (√ŝ + ε), where m̂ = m / (1−β₁ᵗ) and
    ŝ = s / (1−β₂ᵗ). Initially m and s are 0. There is one t for all weights: a weight that grows late starts with
    m = s = 0, and where they are not corrected by the weight's own steps its first steps are several times η
    (:class:`sparsecore.engine.young_weights.YoungWeights`).

    Attributes:
        has_bias_correction: True: moments are corrected by the number of the step.
        betas: β₁ and β₂, in [0, 1).
        epsilon: ε, above 0.
        weight_decay: λ, at least 0.
    """

    has_bias_correction: ClassVar[bool] = True
    betas: tuple[float, float] = attrs.field(default=(0.9, 0.999), validator=_check_betas)
    epsilon: float = attrs.field(default=1e-8, validator=attrs.validators.gt(0))
    weight_decay: float = attrs.field(default=0.0, validator=_at_least_0)


@attrs.frozen
class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019).

    w ← w − η·λ·w, and then as :class:`Adam` with d = g.

    Attributes:
        has_bias_correction: True: moments are corrected by the number of the step.
        betas: β₁ and β₂, in [0, 1).
        epsilon: ε, above 0.
        weight_decay: λ, at least 0.
    """

    has_bias_correction: ClassVar[bool] = True
    betas: tuple[float, float] = attrs.field(default=(0.9, 0.999), validator=_check_betas)
    epsilon: float = attrs.field(default=1e-8, validator=attrs.validators.gt(0))
    weight_decay: float = attrs.field(default=0.0, validator=_at_least_0)


Optimizer: TypeAlias = Sgd | Adam | AdamW

"""Every piece on every strategy: it works over a whole run and does what it says, or is refused before the start."""

import numpy as np
import pytest

from sparsecore.engine.engine import Engine
from sparsecore.engine.schedules import Clock, Every
from sparsecore.engine.topology import Layout
from sparsecore.engine.young_weights import YoungWeights
from sparsecore.errors import InputError
from sparsecore.plugins.discovery import installed, load
from sparsecore_numpy import NumpyArrays

LAYOUT = Layout.of({"a": (8, 8), "b": (6, 8), "c": (4, 4)})
STEPS = 12
OFTEN = {"schedule": Every(steps=2)}
STRATEGIES = {
    "static": {},
    "dpr": {"target": "20%", **OFTEN},
    "set": OFTEN,
    "deepr": {"temperature": 1e-3},
    "gradient-deepr": {"temperature": 1e-3, **OFTEN},
    "soft-deepr": {"temperature": 1e-3, "lowest": -0.02},
    "rigl": OFTEN,
    "srigl": {"group": 4, **OFTEN},
    "snfs": OFTEN,
    "gmp": OFTEN,
    "iterative-pruning": {"prunings": 4},
    "granet": OFTEN,
    "chts": OFTEN,
    "acdc": {"begin": 0.0, "phase": 0.2},
    "gse": OFTEN,
    "mest": OFTEN,
    "smet": OFTEN,
    "topkast": OFTEN,
}
PIECES = {
    "gradient-growth": {},
    "momentum-growth": {},
    "magnitude-drop": {},
    "wanda-drop": {},
    "erk-start": {},
    "density-schedule": {"sparsity": 0.9, "begin": 0.0},
}
GROWS, DROPS = {"gradient-growth", "momentum-growth"}, {"magnitude-drop", "wanda-drop"}
REFUSED = {
    # dormant connections, and the numbers that follow from them
    "soft-deepr": {*GROWS, *DROPS, "density-schedule"},
    # equally many weights in each group
    "srigl": {*GROWS, "erk-start", "density-schedule"},
    # dense at the start, and as many weights as they leave themselves
    **{name: {*DROPS, "erk-start"} for name in ("gmp", "iterative-pruning", "granet", "acdc")},
    # more weights than the sparsity says
    "topkast": {"erk-start"},
}
CHANGE_SIZE = {"soft-deepr", "gmp", "iterative-pruning", "granet", "acdc"}


def made(name, options):
    return load("strategy", name)(**options)


def sizes_of(stack, sparsity=0.7, **more):
    """The number of weights at the start and after each update of a run with random values and gradients."""
    algorithm = Engine(LAYOUT, stack, arrays=NumpyArrays(), **more)
    draws = np.random.default_rng(0)

    def dense():
        return {name: draws.standard_normal(size) for name, size in zip(LAYOUT.names, LAYOUT.sizes, strict=True)}

    clock = Clock(total_steps=STEPS, steps_per_epoch=4)
    state = algorithm.start(sparsity, clock=clock, values=dense().__getitem__)
    values, sizes = draws.standard_normal(state.topology.size), [state.topology.size]
    for _ in range(STEPS):
        plan, gradients = algorithm.plan(state), dense()
        if plan.perturbs_gradient:
            algorithm.perturbed_gradient(state, values, np.ones_like(values))
        stepped = values + 0.05 * draws.standard_normal(len(values))
        norms = {name: np.ones(shape[1]) for name, shape in zip(LAYOUT.names, LAYOUT.shapes, strict=True)}
        advance = algorithm.advance(
            state, stepped, 0.1, gradients.__getitem__, plan=plan, input_norms=norms.__getitem__
        )
        state, values = advance.state, advance.values
        assert algorithm.visible_weights(state).counts.all()
        if advance.reallocation is not None:
            sizes.append(state.topology.size)
    return sizes


def test_every_built_in_strategy_and_piece_is_here() -> None:
    built_in = {entry.name for entry in installed("strategy") if entry.value.startswith("sparsecore_strategies.")}
    assert built_in == {*STRATEGIES, *PIECES}


@pytest.mark.parametrize("below", STRATEGIES)
@pytest.mark.parametrize("piece", PIECES)
def test_a_piece_works_over_a_whole_run_or_is_refused_at_the_start(below, piece):
    stack = {below: made(below, STRATEGIES[below]), piece: made(piece, PIECES[piece])}
    if piece in REFUSED.get(below, ()):
        with pytest.raises(InputError, match=f"'{piece}' cannot be stacked on '{below}', which has to decide itself"):
            Engine(LAYOUT, stack, arrays=NumpyArrays())
        return
    alone, sizes = sizes_of({below: stack[below]}), sizes_of(stack)
    if piece == "density-schedule":
        assert sizes[-1] == sum(size // 10 for size in LAYOUT.sizes)
    elif below not in CHANGE_SIZE:
        assert set(sizes) == {sizes[0]}
    if piece != "erk-start":
        assert sizes[0] == alone[0]
    if below != "static" and piece != "density-schedule":
        assert len(sizes) == len(alone) > 1


@pytest.mark.parametrize("below", [name for name in STRATEGIES if "density-schedule" not in REFUSED.get(name, ())])
@pytest.mark.parametrize(("sparsity", "active"), [(0.0, LAYOUT.size), (0.2, 51 + 38 + 12)])
def test_a_network_becomes_denser_with_every_strategy(below, sparsity, active):
    schedule = made("density-schedule", {"sparsity": sparsity, "begin": 0.0})
    sizes = sizes_of({below: made(below, STRATEGIES[below]), "density": schedule}, sparsity=0.9)
    assert sizes[-1] == active


def test_a_soft_bound_takes_back_itself_what_has_grown():
    for bound, options in ((False, {}), (True, {"soft_bound": True})):
        stack = {"mest": made("mest", {**OFTEN, **options}), "drop": made("magnitude-drop", {})}
        if bound:
            with pytest.raises(InputError, match="'drop' cannot be stacked on 'mest'"):
                sizes_of(stack)
        else:
            assert len(set(sizes_of(stack))) == 1


@pytest.mark.parametrize(
    ("below", "above"), [("acdc", "topkast"), ("topkast", "acdc"), ("soft-deepr", "topkast"), ("gmp", "rigl")]
)
def test_strategies_that_contradict_each_other_are_refused(below, above):
    with pytest.raises(InputError, match=f"'{above}' cannot be stacked on '{below}'"):
        sizes_of({name: made(name, STRATEGIES[name]) for name in (below, above)})


@pytest.mark.parametrize("name", STRATEGIES)
def test_young_weights_go_with_every_strategy(name):
    young = YoungWeights(warm_up=3)
    strategy = made(name, STRATEGIES[name])
    assert Engine(LAYOUT, [strategy], arrays=NumpyArrays(), young=young).young_weights() is young
    assert sizes_of([strategy], young=young) == sizes_of([strategy])

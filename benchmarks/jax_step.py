"""A training step of WRN-28-2 on JAX: dense in flax and optax, and on the backends, in processes that take turns.

    python benchmarks/jax_step.py [--rounds 10]

Two thread pools in one process take the cores from one another, so each step runs in a process that otherwise waits.
What masking adds to a step, the scatter of the values and the gather of their gradients, is within the noise of whole
steps, so it is also measured alone, as is an update of the topology.
"""

import argparse
import statistics
from collections.abc import Callable, Mapping
from typing import Any

import quiet_machine
from machine import sentence
from networks import learner, step_of
from worker_processes import in_turn
from writing import table, write

SHAPE = (32, 32, 3)
REPEATED = 20
"""Times that masking is carried out in one sample."""

MOST_MASKING = 0.03
"""What masking may add to a step, as a share of the dense one."""

MOST_UPDATE_MS = 15
"""What an update may take."""

DENSE, MASKING, UPDATE = "dense, flax and optax", "masking alone", "an update"
SPARSE, SPARSE_UPDATE = "sparsify, flax and optax", "an update of sparsify"


def main() -> None:
    options = _options()
    seconds, machine = in_turn({**STEPS, **PARTS}, options)
    masking = statistics.median(seconds[MASKING]) / REPEATED
    report = {
        "machine": machine,
        "settings": vars(options),
        "step_ms": {name: _milliseconds(seconds[name]) for name in STEPS},
        "times_dense": {name: round(quiet_machine.ratio(seconds[name], seconds[DENSE]), 3) for name in STEPS},
        "masking_ms": round(1e3 * masking, 3),
        "masking_share": round(masking / statistics.median(seconds[DENSE]), 5),
        "update_ms": _milliseconds(seconds[UPDATE]),
        "sparsify_update_ms": _milliseconds(seconds[SPARSE_UPDATE]),
        "goals": {"masking_share": MOST_MASKING, "update_ms": MOST_UPDATE_MS},
    }
    write("jax_step", report, page(report))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    quiet_machine.add_options(parser, rounds=10)
    parser.add_argument("--batch", type=int, default=100, help="images a step (default: 100)")
    parser.add_argument("--sparsity", type=float, default=0.9, help="of the 3x3 convolutions in blocks (default: 0.9)")
    return parser.parse_args()


def _dense(options: argparse.Namespace) -> Callable[[], None]:
    from plain_flax import dense_step

    return dense_step(options.batch, SHAPE)


def _sparse(options: argparse.Namespace) -> Callable[[], None]:
    from plain_flax import dense_step

    return dense_step(options.batch, SHAPE, options.sparsity)


def _sparse_update(options: argparse.Namespace) -> Callable[[], None]:
    from plain_flax import sparse_update

    return sparse_update(SHAPE, options.sparsity)


def _jax(options: argparse.Namespace) -> Callable[[], None]:
    from sparsecore_jax import JaxBackend

    network = learner(JaxBackend(), SHAPE, options.sparsity)
    dispatched = step_of(network, options.batch)

    def step() -> None:
        dispatched()
        network.totals()  # which waits until JAX has ended

    return step


def _torch(options: argparse.Namespace) -> Callable[[], None]:
    from sparsecore_torch import TorchBackend

    return step_of(learner(TorchBackend(device="cpu"), SHAPE, options.sparsity), options.batch)


def _masking(options: argparse.Namespace) -> Callable[[], None]:
    """Scatter all values into the dense tensors, and gather as many of a dense gradient, as a step does."""
    import jax
    import jax.numpy as jnp
    from networks import layout_of, topology_of

    from sparsecore_jax import JaxArrays
    from sparsecore_jax.experiment.network import gathered, scattered
    from sparsecore_models.wrn import WideResNet

    topology = topology_of(layout_of(WideResNet().parameters(SHAPE, 10)), options.sparsity, JaxArrays())
    layout, positions = topology.layout, topology.positions.on_device()
    both = jax.jit(lambda values: gathered(scattered(values, positions, layout), positions))
    values = jnp.ones(topology.size)

    def several() -> None:
        nonlocal values
        for _ in range(REPEATED):
            values = both(values)
        jax.block_until_ready(values)

    return several


def _update(options: argparse.Namespace) -> Callable[[], None]:
    """What DPR and the learner do in an update of about 14 % of the weights, as in the paper."""
    from networks import layout_of, noise, task_on

    from sparsecore import Engine
    from sparsecore.engine.schedules import Amount
    from sparsecore_jax import JaxBackend
    from sparsecore_models.wrn import WideResNet
    from sparsecore_strategies.dpr import DynamicReallocation

    backend, model = JaxBackend(), WideResNet()
    strategy = DynamicReallocation(target=Amount("14%"), initial_threshold=2e-2)
    engine = Engine(layout_of(model.parameters(SHAPE, 10)), [strategy], arrays=backend.arrays)
    state = engine.start(options.sparsity)
    network = backend.learner(task_on(state.topology, backend, noise(SHAPE), model))

    def update() -> None:
        nonlocal state
        state, reallocation = engine.update(state, network.values)
        network.reallocate(reallocation)
        network.totals()

    return update


STEPS: Mapping[str, Callable[[argparse.Namespace], Callable[[], None]]] = {
    DENSE: _dense,
    SPARSE: _sparse,
    "--backend jax": _jax,
    "--backend torch": _torch,
}
PARTS: Mapping[str, Callable[[argparse.Namespace], Callable[[], None]]] = {
    MASKING: _masking,
    UPDATE: _update,
    SPARSE_UPDATE: _sparse_update,
}


def _milliseconds(seconds: list[float]) -> float:
    return round(1e3 * statistics.median(seconds), 2)


def page(report: dict[str, Any]) -> str:
    settings, steps, times = report["settings"], report["step_ms"], report["times_dense"]
    rows = [[name, f"{steps[name]:.1f}", f"{times[name]:.3f}"] for name in steps]
    return f"""# A training step of WRN-28-2 on JAX

Batch {settings["batch"]}, images of {"×".join(map(str, SHAPE))}, sparsity {settings["sparsity"]} (but for the dense
one), float32; medians over {settings["rounds"]} rounds, in each of which every process took one step while the others
waited. The ratio is the median of the rounds' ratios.

{table(("step", "ms", "times dense"), rows)}

Masking alone, which is the scatter of all values into dense tensors and the gather of their gradients, takes
{report["masking_ms"]} ms, {100 * report["masking_share"]:.2f} % of the dense step; the goal is at most
{100 * MOST_MASKING:.0f} %. An update by DPR, about 14 % of the weights, takes {report["update_ms"]} ms, and one
by `training.update` of `sparsify` {report["sparsify_update_ms"]} ms; the goal is at most {MOST_UPDATE_MS} ms.

{sentence(report["machine"])}
"""


if __name__ == "__main__":
    main()

"""What training takes in memory: dense, with masks, and compact; by the ledger, and as the system counts it.

    python benchmarks/memory.py [--networks wrn-28-2 mlp] [--sparsity 0.9]

Each is trained for some steps on the CPU, in a process of its own.
"""

import argparse
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any, TypeAlias

import attrs
import numpy as np
import process_memory
from machine import machine, sentence
from networks import batch_of, learner
from worker_processes import alone
from writing import table, write

from sparsecore.learning.ledger import Ledger
from sparsecore.learning.parameters import HeNormal, Parameter
from sparsecore.learning.protocols import Model
from sparsecore_models.wrn import WideResNet

GOAL = 0.15
"""Of the dense network's parameters, gradients and momentum: what compact storage may take for these."""

STEPS = 2
BATCH = 8
UNITS, LAYERS = 5000, 4
"""Of the perceptron: 4 · 5000² = 10⁸ weights."""

Training: TypeAlias = tuple[Callable[[], None], Callable[[], Ledger]]
"""A step, and the ledger."""


@attrs.frozen(eq=False)
class Perceptron:
    """Hidden layers of equal size, all sparse, and a dense classifier; for any backend."""

    def parameters(self, _: tuple[int, int, int], classes: int) -> tuple[Parameter, ...]:
        """No biases and no norms."""
        hidden = [Parameter(f"layer{i}", (UNITS, UNITS), HeNormal(), sparse=True) for i in range(LAYERS)]
        return (*hidden, Parameter("classifier", (classes, UNITS), HeNormal()))

    def forward(self, ops: Any, parameters: Mapping[str, Any], images: Any) -> Any:
        """Logits of (batch, classes)."""
        x = ops.flatten(images)
        for i in range(LAYERS):
            x = ops.relu(ops.linear(x, parameters[f"layer{i}"]))
        return ops.linear(x, parameters["classifier"])


@attrs.frozen(eq=False)
class Network:
    """One that is measured.

    Attributes:
        name: in the table.
        shape: of its images, (height, width, channels).
        model: for the backends.
        plain: for sparsify.
        dense: which layers stay dense beside those that sparsify leaves out by itself.
    """

    name: str
    shape: tuple[int, int, int]
    model: Model
    plain: Callable[[], Any]
    dense: str | None


def _wide_resnet() -> Any:
    from plain_torch import wide_resnet

    return wide_resnet()


def _perceptron() -> Any:
    from plain_torch import perceptron

    return perceptron(UNITS, LAYERS)


NETWORKS = {
    "wrn-28-2": Network("WRN-28-2", (32, 32, 3), WideResNet(), _wide_resnet, "*shortcut*"),
    "mlp": Network(f"perceptron, {LAYERS} layers of {UNITS}²", (50, 100, 1), Perceptron(), _perceptron, None),
}


def _dense(network: Network, _: float) -> Training:
    from plain_torch import Loop, optimizer_of

    from sparsecore_torch.sparse_training.storage.masked import ledger_of

    model = network.plain()
    loop = Loop(model, optimizer_of(model), BATCH, network.shape)
    return loop.step, lambda: ledger_of(loop.optimizer, [])


def _sparsified(storage: str) -> Callable[[Network, float], Training]:
    def make(network: Network, sparsity: float) -> Training:
        from plain_torch import Loop, optimizer_of

        from sparsecore_torch import sparsify

        model = network.plain()
        optimizer = optimizer_of(model)
        chosen: Any = {"sparsity": sparsity, "exclude": network.dense, "storage": storage}
        training = sparsify(model, optimizer, strategy="static", **chosen)
        return Loop(model, optimizer, BATCH, network.shape).step, training.memory

    return make


def _torch_backend(network: Network, sparsity: float) -> Training:
    from sparsecore_torch import TorchBackend

    return _on_backend(TorchBackend(device="cpu"), network, sparsity)


def _numpy_backend(network: Network, sparsity: float) -> Training:
    from sparsecore_numpy import NumpyBackend

    return _on_backend(NumpyBackend(), network, sparsity)


def _on_backend(backend: Any, network: Network, sparsity: float) -> Training:
    one, rng = learner(backend, network.shape, sparsity, network.model), np.random.default_rng(0)
    return lambda: one.train(batch_of(rng.choice(1000, BATCH, replace=False)), 0.1), one.memory


WAYS: Mapping[str, Callable[[Network, float], Training]] = {
    "torch, dense": _dense,
    "sparsify, masked": _sparsified("masked"),
    "sparsify, compact": _sparsified("compact"),
    "torch backend": _torch_backend,
    "NumPy backend": _numpy_backend,
}


def main() -> None:
    options = _options()
    process_memory.prepare()
    results = {name: {way: alone(_measure, name, way, options.sparsity) for way in WAYS} for name in options.networks}
    facts = machine() | {"torch": version("torch")}  # this process has no need of it
    report = {"machine": facts, "settings": vars(options), "goal": GOAL, "bytes": results}
    write("memory", report, page(report))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="default: all")
    parser.add_argument("--sparsity", type=float, default=0.9, help="of the sparse layers (default: 0.9)")
    return parser.parse_args()


def _measure(network: str, way: str, sparsity: float) -> dict[str, Any]:
    _warm_up(way)
    process_memory.forget()
    before = process_memory.resident()
    step, memory = WAYS[way](NETWORKS[network], sparsity)
    step()  # makes the optimizer's state
    start = process_memory.highest() - before
    process_memory.forget()
    for _ in range(STEPS):
        step()
    training = process_memory.highest() - before
    parts = {name: attrs.asdict(part) for name, part in memory().parts.items()}
    return {"ledger": parts, "rise_at_start": start, "rise_in_training": training}


def _warm_up(way: str) -> None:
    """What libraries load and keep once and for all is no memory of the network."""
    step, _ = WAYS[way](attrs.evolve(NETWORKS["wrn-28-2"], shape=(8, 8, 3)), 0.9)
    step()


def page(report: dict[str, Any]) -> str:
    sections = [_section(NETWORKS[name], ways) for name, ways in report["bytes"].items()]
    return f"""# What training takes in memory

Sparsity {report["settings"]["sparsity"]}, float32, momentum, batch {BATCH}; in MB. The ledger has values, gradients and
momentum of all trained parameters, and what says where the weights are; "of dense" compares values, gradients and
momentum with the dense network's, and all of it with the same. The goal is at most {GOAL} without the indices. The
process is how much memory the system counts more than before the network was made, at most, activations included: until
the first step is done (sparsify begins with a dense network), and in the steps after it.

{chr(10).join(sections)}
{sentence(report["machine"])}
"""


def _section(network: Network, ways: Mapping[str, Mapping[str, Any]]) -> str:
    dense = ways["torch, dense"]
    head = ("measured", "values", "gradients", "momentum", "indices", "of dense", "with indices", "start", "training")
    rows = [_row(way, measured, dense) for way, measured in ways.items()]
    formulas = [_formula(way, measured) for way, measured in ways.items()]
    parts = ("by formula", "values", "gradients", "momentum", "indices")
    return f"""## {network.name}

{table(head, rows)}

{table(parts, formulas)}
"""


_PARTS = ("values", "gradients", "optimizer_state", "indices")


def _row(way: str, measured: Mapping[str, Any], dense: Mapping[str, Any]) -> list[str]:
    ledger, whole = measured["ledger"], dense["ledger"]["total"]["measured"]
    total, indices = (ledger[part]["measured"] for part in ("total", "indices"))
    shares = (f"{(total - indices) / whole:.3f}", f"{total / whole:.3f}")
    process = (_megabytes(measured[when]) for when in ("rise_at_start", "rise_in_training"))
    return [way, *(_megabytes(ledger[part]["measured"]) for part in _PARTS), *shares, *process]


def _formula(way: str, measured: Mapping[str, Any]) -> list[str]:
    return [way, *(_megabytes(measured["ledger"][part]["theoretical"]) for part in _PARTS)]


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f}"


if __name__ == "__main__":
    main()

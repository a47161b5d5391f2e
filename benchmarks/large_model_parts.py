"""The measurements of ``large_model.py``, each made in a process of its own: steps, updates, memory, and lists."""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import attrs
import numpy as np
import process_memory
import quiet_machine
import torch
from torch import nn
from torch.nn import functional
from transformer_models import Llama

from sparsecore.engine.engine import Engine
from sparsecore.engine.schedules import Amount, Every, Piecewise
from sparsecore.engine.selection import smallest_indices
from sparsecore.engine.topology import Layout
from sparsecore.host.computation import Tape
from sparsecore.host.weights import WeightView
from sparsecore_cpu.activations import Activation, InputNode
from sparsecore_cpu.batch_norm import of_batch
from sparsecore_cpu.operations import CpuOperations
from sparsecore_cpu.runtime import Form, Runtime
from sparsecore_cpu.weighted import ListCache
from sparsecore_strategies.dpr import DynamicReallocation
from sparsecore_strategies.rigl import RigL
from sparsecore_strategies.set import SparseEvolution
from sparsecore_strategies.static import Static
from sparsecore_torch import sparsify
from sparsecore_torch.arrays import TorchArrays, active_indices, shortened

VOCABULARY = 8000

SCHEDULE = Every(steps=3)
"""Every third step has an update: the lists of the kernels are made in the one behind it, and one has neither."""

STRATEGIES: Mapping[str, Callable[[], object]] = {
    "DPR": lambda: DynamicReallocation(
        # a tenth of the uniform start values is smaller, and nearly any number leaves the threshold as it is
        target=Amount("10%"),
        initial_threshold=0.0036,
        tolerance=0.9,
        schedule=SCHEDULE,
    ),
    "SET": lambda: SparseEvolution(schedule=SCHEDULE),
    "RigL": lambda: RigL(drop_fraction=Piecewise({0: 0.3}), schedule=SCHEDULE),
}


@attrs.frozen
class Way:
    """A way to train the model.

    Attributes:
        settings: of ``sparsify``; None for a dense model.
        sparsity: of the sparse tensors.
        is_compiled: whether inductor compiles the model.
    """

    settings: Mapping[str, str] | None = None
    sparsity: float = 0.9
    is_compiled: bool = False

    def loop(self, options: argparse.Namespace, strategy: Callable[[], object] = Static) -> "Loop":
        """Return the training of a new model, of which all but the embedding and the head are sparse.

        Args:
            options: of the command line.
            strategy: makes the strategy.
        """
        torch.manual_seed(0)
        model: Any = Llama(layers=options.blocks, vocabulary=VOCABULARY)
        optimizer, training = torch.optim.AdamW(model.parameters(), lr=3e-4), None
        if self.settings is not None:
            sparse = {"sparsity": self.sparsity, "distribution": "uniform", "exclude": nn.Embedding}
            training = sparsify(model, optimizer, strategy=strategy(), **sparse, **self.settings)
        tokens = torch.randint(0, VOCABULARY, (1, options.tokens))
        return Loop(torch.compile(model) if self.is_compiled else model, optimizer, tokens, training)


@attrs.frozen(eq=False)
class Loop:
    """A model in training.

    Attributes:
        model: from tokens to logits.
        optimizer: of its parameters.
        tokens: of each step, (1, length).
        training: the sparse training; None of a dense model.
    """

    model: Any
    optimizer: torch.optim.Optimizer
    tokens: torch.Tensor
    training: Any

    def step(self) -> None:
        """Take a step of the training."""
        self.optimizer.zero_grad()
        functional.cross_entropy(self.model(self.tokens), self.tokens.roll(-1, 1).flatten()).backward()
        self.optimizer.step()


MASKS, COMPACT = {"storage": "masked"}, {"storage": "compact"}
KERNELS = {"kernels": "sparse"}
WAYS: Mapping[str, Way] = {
    "dense": Way(),
    "dense, compiled by inductor": Way(is_compiled=True),
    "masks": Way(MASKS),
    "masks, sparse kernels": Way(MASKS | KERNELS),
    "compact storage": Way(COMPACT),
    "compact storage, sparse kernels": Way(COMPACT | KERNELS),
    "compact storage, sparse kernels, 0.95": Way(COMPACT | KERNELS, 0.95),
}
"""The ways whose steps are measured, at sparsity 0.9 where no other is named."""


def steps(options: argparse.Namespace, *ways: str) -> dict[str, Any]:
    """Return the seconds of a step in each way, in turn, and their ratios to the fastest dense one.

    Args:
        options: of the command line.
        ways: of :data:`WAYS`.
    """
    torch.set_num_threads(options.threads)
    made, left_out = {}, {}
    for name in ways:
        way = WAYS[name]
        loop = way.loop(options)
        try:
            loop.step()
        except Exception as error:
            if not way.is_compiled:
                raise
            left_out[name] = f"{type(error).__name__}: {error}".partition("\n")[0]  # a compiler that is missing
            continue
        made[name] = loop.step
    seconds = quiet_machine.in_turn(made, options)
    fastest = min(
        (name for name in made if WAYS[name].settings is None), key=lambda one: statistics.median(seconds[one])
    )
    return {
        "seconds": {name: round(statistics.median(taken), 3) for name, taken in seconds.items()},
        "of_dense": {name: round(quiet_machine.ratio(taken, seconds[fastest]), 4) for name, taken in seconds.items()},
        "fastest": fastest,
        "left_out": left_out,
    }


def updates(options: argparse.Namespace, way: str, name: str) -> dict[str, Any]:
    """Return the seconds that an update adds, to its own step and to the one behind it; medians.

    Args:
        options: of the command line.
        way: of :data:`WAYS`.
        name: of the strategy.
    """
    torch.set_num_threads(options.threads)
    dense, sparse = WAYS["dense"].loop(options), WAYS[way].loop(options, STRATEGIES[name])
    for loop in (dense, dense, *6 * [sparse]):
        loop.step()
    before = sparse.training.updates
    steps = {"dense": dense.step, "after": sparse.step, "plain": sparse.step, "update": sparse.step}
    take = quiet_machine.clock(options)
    seconds = quiet_machine.rounds({one: partial(take, step) for one, step in steps.items()}, options)
    assert sparse.training.updates >= before + options.rounds
    turns = zip(seconds["update"], seconds["after"], seconds["plain"], strict=True)
    added = statistics.median(update + after - 2 * plain for update, after, plain in turns)
    dense_seconds = statistics.median(seconds["dense"])
    return {
        "dense_s": round(dense_seconds, 3),
        "sparse_s": round(statistics.median(seconds["plain"]), 3),
        "update_s": round(added, 3),
        "in_dense_steps": round(added / dense_seconds, 3),
    }


def peaks(options: argparse.Namespace, way: str, name: str | None = None) -> dict[str, float]:
    """Return the megabytes by which the process rises, at most: while it trains, and from the beginning on.

    Args:
        options: of the command line.
        way: of :data:`WAYS`.
        name: of the strategy; None for one that has no updates.
    """
    torch.set_num_threads(options.threads)
    process_memory.forget()
    before = process_memory.resident()
    loop = WAYS[way].loop(options, Static if name is None else STRATEGIES[name])
    for _ in range(3):
        loop.step()
    first = process_memory.highest()
    process_memory.forget()
    for _ in range(3):  # one has an update
        loop.step()
    training = process_memory.highest()
    return {
        "training_mb": round((training - before) / 1e6, 1),
        "all_mb": round((max(first, training) - before) / 1e6, 1),
    }


def lists(options: argparse.Namespace) -> dict[str, float]:
    """Return seconds and bytes of what the kernels make of the positions, and the time of selecting the smallest.

    The lists of all layers are made in the first pass over the network; later passes find as little in the caches.
    """
    torch.set_num_threads(options.threads)
    model = Llama(layers=options.blocks, vocabulary=VOCABULARY)
    layout = Layout.of({name: one.shape for name, one in model.layers.named_parameters() if one.ndim == 2})
    topology = Engine(layout, [Static()], arrays=TorchArrays()).start(0.9).topology
    runtime, cache = Runtime.of(options.threads), ListCache(options.threads)
    memory = np.full((2, topology.size), 1.0, np.float32)  # not zeros, whose pages the system gives at the first touch
    start, views = time.perf_counter(), []
    for index, shape in enumerate(layout.shapes):
        own = memory[:, topology.bounds[index] : topology.bounds[index + 1]]
        views.append(WeightView(shape, shortened(active_indices(topology, index)).numpy(), *own))
    positions_seconds = time.perf_counter() - start
    first, *later = (sum(_product(runtime, cache, view, options.tokens) for view in views) for _ in range(4))
    arrays = [array for view in views for array in (view.positions, *cache.arrays(view.owner).indices)]
    return {
        "weights": topology.size,
        "seconds": round(positions_seconds + first - statistics.median(later), 3),
        "bytes_a_weight": round(sum(array.nbytes for array in arrays) / topology.size, 2),
        **_selection(),
    }


def _product(runtime: Runtime, cache: ListCache, weight: WeightView, batch: int) -> float:
    """Return the seconds of a linear layer, forward and backward."""
    tape: Tape[Activation] = Tape()
    ops = CpuOperations(runtime, cache, tape, of_batch)
    given, made = (runtime.buffers.take(Form.of_features(batch, side)) for side in reversed(weight.shape))
    given.array[:] = made.array[:] = 0
    x = Activation(runtime, given.form, InputNode(given))
    start = time.perf_counter()
    out = ops.linear(x, weight)
    out.buffer()
    tape.backward(out, made)
    x.gradient.total(runtime, given.form)
    return time.perf_counter() - start


def _selection() -> dict[str, float]:
    """Return nanoseconds an entry for selecting a tenth, the smallest, among 1, 8 and 64 million random numbers."""
    random, taken = np.random.default_rng(0), {}
    for millions in (1, 8, 64):
        entries = random.standard_normal(millions * 1_000_000, np.float32)
        select = partial(smallest_indices, entries, len(entries) // 10)
        seconds = statistics.median(quiet_machine.disturbed_seconds(select) for _ in range(5))
        taken[f"ns_{millions}"] = round(1e9 * seconds / len(entries), 2)
    return taken

"""Small models and loops to test ``sparsify`` with, and an oracle that spells sparse training out."""

from collections.abc import Callable, Iterable
from typing import Any

import attrs
import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from sparsecore.engine.engine import Engine
from sparsecore.engine.hooks import hookimpl
from sparsecore.engine.schedules import Every
from sparsecore.engine.topology import Layout
from sparsecore_numpy import NumpyArrays
from sparsecore_strategies.dpr import DynamicReallocation


def mlp(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 3)).to(dtype)


def convnet(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 5),
        nn.Linear(5, 3),
    )


def sgd(model: nn.Module, **options: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), **{"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-3, **options})


def often(target: str = "20%", every: int = 2, **options: Any) -> DynamicReallocation:
    """DPR with an update every few steps."""
    return DynamicReallocation(target=target, initial_threshold=0.05, schedule=Every(steps=every), **options)


def batch(step: int, shape: tuple[int, ...] = (6,), size: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(size, *shape, generator=generator), torch.randint(0, 3, (size,), generator=generator)


def loss_at(model: nn.Module, step: int, shape: tuple[int, ...] = (6,)) -> torch.Tensor:
    images, labels = batch(step, shape)
    return cross_entropy(model(images), labels)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: Iterable[int], **options: Any) -> None:
    train_by(model, [optimizer], steps, **options)


def train_by(
    model: nn.Module, optimizers: Iterable[torch.optim.Optimizer], steps: Iterable[int], **options: Any
) -> None:
    for step in steps:
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss_at(model, step, **options).backward()
        for optimizer in optimizers:
            optimizer.step()


def step_in(way: str, model: nn.Module, optimizer: torch.optim.Optimizer, scaler: Any, step: int) -> None:
    """Take a step by a scaler as usual loops do: with a 'closure', 'accumulated' over two halves, or plainly."""

    def backward() -> torch.Tensor:
        optimizer.zero_grad()
        loss = loss_at(model, step)
        if way == "accumulated":
            (loss_at(model, step) / 2).backward()
            loss = loss / 2
        scaler.scale(loss).backward()
        return loss

    if way == "closure":
        optimizer.step(backward)
        return
    backward()
    scaler.step(optimizer)
    scaler.update()


def sparse_parameters(model: nn.Module, training: Any) -> dict[str, nn.Parameter]:
    named = dict(model.named_parameters())
    return {name: named[name] for name in training.topology.layout.names}


def states_of(optimizer: torch.optim.Optimizer, parameter: torch.Tensor) -> dict[str, torch.Tensor]:
    """What of the optimizer's state has one entry a weight."""
    state = optimizer.state.get(parameter, {})
    return {key: entry for key, entry in state.items() if getattr(entry, "shape", None) == parameter.shape}


def assert_inactive_is_zero(model: nn.Module, optimizer: torch.optim.Optimizer, training: Any) -> None:
    masks = training.masks()
    for name, parameter in sparse_parameters(model, training).items():
        for tensor in (parameter, *states_of(optimizer, parameter).values()):
            assert not tensor.detach()[~masks[name]].any(), name


def everything(model: nn.Module, optimizer: Any) -> Any:
    """All that a refusal must leave as it was: objects, classes, attributes, values, gradients, state, hooks."""
    modules = {
        name: (
            type(module),
            [key for key in vars(module) if key != "_is_torch_compile"],
            list(module._parameters),
            {key: list(value) for key, value in vars(module).items() if "hook" in key and value},
        )
        for name, module in model.named_modules()
    }
    parameters = {
        name: (
            *(id(p), bytes_of(p), id(p.grad), bytes_of(p.grad)),
            *(list(getattr(p, key, None) or {}) for key in ("_backward_hooks", "_post_accumulate_grad_hooks")),
        )
        for name, p in model.named_parameters()
        if p.device.type != "meta"
    }
    hooks = {key: list(value) for key, value in vars(optimizer).items() if "hook" in key}
    groups = [[id(p) for p in group["params"]] for group in getattr(optimizer, "param_groups", [])]
    state = {
        id(p): {key: (id(content), bytes_of(content)) for key, content in kept.items()}
        for p, kept in getattr(optimizer, "state", {}).items()
    }
    return modules, parameters, hooks, groups, list(vars(optimizer)), state


def bytes_of(content: Any) -> bytes | None:
    """The entries of a strided tensor on the host; None for anything else."""
    is_plain = isinstance(content, torch.Tensor) and content.layout is torch.strided and content.device.type == "cpu"
    return content.detach().clone().contiguous().view(-1).view(torch.uint8).numpy().tobytes() if is_plain else None


@attrs.frozen(eq=False)
class GrowByGradient:
    """Growth where the dense gradient is largest, as in RigL; keeps what it saw."""

    seen: list[dict[str, np.ndarray]] = attrs.field(factory=list)

    @hookimpl
    def grow(self, occupied, counts, gradient):
        names = occupied.layout.names
        self.seen.append({name: occupied.arrays.to_numpy(gradient(name)).copy() for name in names})
        grown = []
        for name, offset, count in zip(names, occupied.layout.offsets, counts, strict=False):
            steepness = np.abs(self.seen[-1][name])
            steepness[occupied.local(name)] = -1
            grown.append(np.sort(np.argsort(-steepness, kind="stable")[:count]) + offset)
        return occupied.arrays.from_numpy(np.concatenate(grown).astype(occupied.layout.position_dtype))


FRESH = {"step_size": 0.01, "sum": 0.1}
"""What torch's optimizers begin with where it is not zero: Rprop's with its learning rate, Adagrad's with an option."""


class Oracle:
    """Sparse training spelled out: float masks that are multiplied, and the decisions of NumPy's engine."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        names: Iterable[str],
        strategies: list[object],
        *,
        sparsity: float,
        seed: int = 0,
        regrow_pruned: bool = False,
    ) -> None:
        self.model, self.optimizer = model, optimizer
        parameters = dict(model.named_parameters())
        self.parameters = {name: parameters[name] for name in names}
        layout = Layout.of({name: tuple(parameter.shape) for name, parameter in self.parameters.items()})
        self.engine = Engine(layout, strategies, arrays=NumpyArrays(), seed=seed, regrow_pruned=regrow_pruned)
        self.state = self.engine.start(sparsity)
        self._write(self.engine.start_values(self.state, self._read()))

    @property
    def masks(self) -> dict[str, torch.Tensor]:
        return {name: torch.from_numpy(self.state.topology.mask(name)) for name in self.parameters}

    def _read(self) -> np.ndarray:
        return np.concatenate([p.detach().numpy()[self.masks[name].numpy()] for name, p in self.parameters.items()])

    def _write(self, values: np.ndarray) -> None:
        for name, parameter in self.parameters.items():
            dense = torch.zeros(parameter.shape, dtype=parameter.dtype)
            dense[self.masks[name]] = torch.from_numpy(values[self.state.topology.slots(name)].copy())
            parameter.data.copy_(dense)

    def step(self, loss: Callable[[], torch.Tensor]) -> None:
        self.optimizer.zero_grad()
        loss().backward()
        for name, parameter in self.parameters.items():
            if parameter.grad is not None:
                parameter.grad *= self.masks[name]
        self.optimizer.step()
        self._multiply(self.masks)
        advance = self.engine.advance(self.state, self._read(), self.optimizer.param_groups[0]["lr"])
        self.state = advance.state
        self._write(advance.values)
        if advance.reallocation is not None:
            grown = advance.reallocation.after.at(advance.reallocation.grown_positions)
            self._multiply({name: ~torch.from_numpy(grown.mask(name)) for name in self.parameters}, weights=False)
            self._multiply(self.masks)
            for name, parameter in self.parameters.items():
                for key, state in states_of(self.optimizer, parameter).items():
                    state[torch.from_numpy(grown.mask(name))] = FRESH.get(key, 0.0)

    def _multiply(self, masks: dict[str, torch.Tensor], *, weights: bool = True) -> None:
        for name, parameter in self.parameters.items():
            for state in states_of(self.optimizer, parameter).values():
                state.mul_(masks[name])
            if weights:
                parameter.data *= masks[name]

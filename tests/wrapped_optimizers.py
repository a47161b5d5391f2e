"""Look-alikes of what libraries wrap around optimizers, as far as sparse training can tell them apart."""

from collections import OrderedDict, defaultdict
from typing import Any

import torch
from torch import Tensor


class Accelerated(torch.optim.Optimizer):
    """Like accelerate's: an Optimizer that never calls ``__init__`` of its base, and has properties for its content."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    @property
    def state(self) -> Any:
        return self.optimizer.state

    @property
    def param_groups(self) -> Any:
        return self.optimizer.param_groups

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.optimizer.zero_grad(set_to_none)

    def step(self, closure: Any = None) -> Any:
        return self.optimizer.step(closure)


class Lightning:
    """Like Lightning's: takes on the class of the optimizer inside, and forwards what it does not have."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self.__class__ = type("Lightning" + type(optimizer).__name__, (Lightning, type(optimizer)), {})

    def step(self, closure: Any = None) -> Any:
        return self._optimizer.step(closure)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._optimizer, name)


class Sam(torch.optim.Optimizer):
    """Sharpness-aware minimization; may be called as two halves."""

    def __init__(self, params: Any, base: type[torch.optim.Optimizer], rho: float = 0.05, **options: Any) -> None:
        super().__init__(params, {"rho": rho, **options})
        self.base_optimizer = base(self.param_groups, **options)
        self.param_groups = self.base_optimizer.param_groups

    @torch.no_grad()
    def first_step(self) -> None:
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.stack([gradient.norm() for gradient in gradients]).norm() + 1e-12
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["old"] = p.detach().clone()
                p.add_(p.grad * (group["rho"] / norm))
        self.zero_grad()

    @torch.no_grad()
    def second_step(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                p.data = self.state[p]["old"]
        self.base_optimizer.step()
        self.zero_grad()

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        self.first_step()
        loss = torch.enable_grad()(closure)()
        self.second_step()
        return loss


class Lookahead(torch.optim.Optimizer):
    """Slow weights that the fast ones are drawn to every second step; runs no hooks, like torch_optimizer's."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self.param_groups = optimizer.param_groups
        self.state: Any = defaultdict(dict)
        self.defaults = optimizer.defaults
        self.count = 0

    def parameters(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.optimizer.zero_grad(set_to_none)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = self.optimizer.step(closure)
        self.count += 1
        if self.count % 2 == 0:
            for p in self.parameters():
                slow = self.state[p].setdefault("slow", p.detach().clone())
                slow.lerp_(p, 0.5)
                p.copy_(slow)
        return loss


class HookedLookahead(Lookahead):
    """Sets up hooks and slow weights at once, like pytorch_optimizer's."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        super().__init__(optimizer)
        self._optimizer_step_pre_hooks = OrderedDict()
        self._optimizer_step_post_hooks = OrderedDict()
        self._patch_step_function()
        for p in self.parameters():
            self.state[p]["slow"] = p.detach().clone()


class ScheduleFree:
    """Like schedulefree's wrapper: no Optimizer, and its iterates are in the state of the optimizer inside."""

    def __init__(self, base: torch.optim.Optimizer) -> None:
        self.base = base
        self.count = 0

    @property
    def param_groups(self) -> Any:
        return self.base.param_groups

    @property
    def state(self) -> Any:
        return self.base.state

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.base.zero_grad(set_to_none)

    @torch.no_grad()
    def step(self) -> None:
        parameters = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        for p in parameters:
            state = self.state[p]
            z = state.setdefault("z", p.detach().clone())
            x = p.lerp(z, 1 - 1 / 0.9)
            p.copy_(z)
            z.copy_(x)
        self.base.step()
        self.count += 1
        for p in parameters:
            z = self.state[p]["z"]
            x = z.lerp(p, 1 / self.count)
            z.copy_(p)
            p.copy_(x.lerp(z, 1 - 0.9))

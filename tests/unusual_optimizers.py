"""Look-alikes of library optimizers whose state is not zero at first or not one entry per weight."""

from collections import deque
from typing import Any

import torch
from torch import Tensor


class Plain(torch.optim.Optimizer):
    """Calls ``update`` for each parameter with a gradient."""

    def __init__(self, params: Any, lr: float = 0.05, **options: Any) -> None:
        super().__init__(params, {"lr": lr, **options})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        assert closure is None
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self.update(p, self.state[p], group)

    def update(self, p: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        raise NotImplementedError


class Kronecker(Plain):
    """As Shampoo and SOAP: sums of products of rows, which have the shape of the parameter where that is square."""

    def update(self, p: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        rows = p.grad.reshape(len(p), -1)
        left = state.setdefault("left", torch.eye(len(p)))
        momentum = state.setdefault("momentum", torch.zeros_like(p))
        left.add_(rows @ rows.T)
        momentum.lerp_(p.grad, 0.1)
        p.sub_(torch.linalg.solve(left, momentum.reshape(len(p), -1)).reshape(p.shape), alpha=group["lr"])


class Codes(Plain):
    """Momentum as 8-bit codes of a block's maximum; the code of zero is 128."""

    def update(self, p: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        codes = state.setdefault("codes", torch.zeros_like(p, dtype=torch.uint8))
        largest = state.setdefault("largest", torch.zeros(()))
        momentum = (codes.float() - 128) / 127 * largest
        momentum = 0.9 * momentum + 0.1 * p.grad
        largest.copy_(momentum.abs().max())
        codes.copy_((momentum / largest.clamp_min(1e-30) * 127).round() + 128)
        p.sub_(momentum, alpha=group["lr"])


class Lars(Plain):
    """Steps in proportion to the norm of the weight; vectors go by plain gradient descent."""

    def update(self, p: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:  # noqa: ARG002
        rate = p.norm() / p.grad.norm().clamp_min(1e-12) if p.ndim > 1 else 1.0
        p.sub_(p.grad * (group["lr"] * rate))


class Clipped(Plain):
    """Momentum, and no step larger than so much on average."""

    def update(self, p: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        momentum = state.setdefault("momentum", torch.zeros_like(p))
        momentum.lerp_(p.grad, 0.1)
        p.sub_(momentum / (momentum.square().mean().sqrt() / 0.1).clamp_min(1.0), alpha=group["lr"])


class Gains(Plain):
    """A gain for each weight that begins with one, and a slow copy of the weight."""

    def update(self, p: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        gain = state.setdefault("gain", torch.ones_like(p))
        slow = state.setdefault("slow", p.detach().clone())
        gain.mul_(1 + 0.1 * p.grad.sign())
        p.sub_(gain * p.grad, alpha=group["lr"])
        slow.lerp_(p, 0.1)


class Quantized(Tensor):
    """As torchao's: of the shape of the parameter, with other numbers inside."""

    @staticmethod
    def __new__(cls, content: Tensor) -> "Quantized":
        return Tensor._make_wrapper_subclass(cls, content.shape, dtype=content.dtype)  # type: ignore[attr-defined]

    def __init__(self, content: Tensor) -> None:
        self.content = content.half()

    def dequantize(self) -> Tensor:
        return self.content.float()

    @classmethod
    def __torch_dispatch__(cls, function: Any, _: Any, given: Any = (), named: Any = None) -> Any:
        if function is torch.ops.aten.detach.default:
            return given[0]
        if function is torch.ops.aten.copy_.default:
            given[0].content.copy_(given[1].content if isinstance(given[1], Quantized) else given[1])
            return given[0]
        raise NotImplementedError(f"{function} of quantized tensors, {named}")


class Opaque(Quantized):
    """Does not tell its numbers."""

    dequantize = Tensor.dequantize


class QuantizedMomentum(Plain):
    """Momentum in tensors of a class of their own."""

    make: type[Quantized] = Quantized

    def update(self, p: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        kept = state.setdefault("momentum", self.make(torch.zeros_like(p)))
        momentum = 0.9 * kept.content.float() + p.grad
        kept.copy_(momentum)
        p.sub_(momentum, alpha=group["lr"])


class OpaqueMomentum(QuantizedMomentum):
    make = Opaque


class OwnRate(Plain):
    """As Hugging Face's Adafactor: a learning rate of None is one that the optimizer chooses."""

    def update(self, p: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        state["step"] = state.get("step", 0) + 1
        rate = group["lr"] if group["lr"] is not None else 0.1 / state["step"]
        p.sub_(p.grad, alpha=rate)


class Picky(Plain):
    """Cannot be tried: it works with parameters of one model only."""

    def update(self, p: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        if not hasattr(p, "tag"):
            raise RuntimeError("a parameter without a tag")
        trace = state.setdefault("trace", torch.ones_like(p))
        trace.add_(p.grad.abs())
        p.sub_(p.grad / trace, alpha=group["lr"])


class SeveralMomenta(Plain):
    """As AggMo and AdaShift: momenta in a dict, and past gradients in a deque, inside of the parameter's state."""

    def update(self, p: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        momenta = state.setdefault("momenta", {decay: torch.zeros_like(p) for decay in (0.0, 0.5, 0.9)})
        past = state.setdefault("past", deque(maxlen=12))
        past.append(p.grad.clone())
        for decay, momentum in momenta.items():
            momentum.mul_(decay).add_(past[0])
            p.sub_(momentum, alpha=group["lr"] / 3)


class InAttribute(Plain):
    """Momenta in an attribute of the optimizer."""

    def __init__(self, params: Any, **options: Any) -> None:
        super().__init__(params, **options)
        self.momenta: dict[int, Tensor] = {}

    def update(self, p: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:  # noqa: ARG002
        p.sub_(self.momenta.setdefault(id(p), torch.zeros_like(p)).mul_(0.9).add_(p.grad), alpha=group["lr"])


class InGroup(Plain):
    """Momenta in the param group."""

    def update(self, p: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:  # noqa: ARG002
        momenta = group.setdefault("momenta", [torch.zeros_like(one) for one in group["params"]])
        place = next(place for place, one in enumerate(group["params"]) if one is p)
        p.sub_(momenta[place].mul_(0.9).add_(p.grad), alpha=group["lr"])


class ByIdentity(Plain):
    """Momenta in the state, by the identity of the parameter."""

    def update(self, p: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:  # noqa: ARG002
        self.state.pop(p)  # Plain has asked for it, and torch takes the identity for the parameter
        own = self.state[id(p)]  # type: ignore[index]
        p.sub_(own.setdefault("momentum", torch.zeros_like(p)).mul_(0.9).add_(p.grad), alpha=group["lr"])


class OnParameter(Plain):
    """Momenta as attributes of the parameters."""

    def update(self, p: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:  # noqa: ARG002
        held: Any = p
        if not hasattr(held, "momentum"):
            held.momentum = torch.zeros_like(p)
        p.sub_(held.momentum.mul_(0.9).add_(p.grad), alpha=group["lr"])

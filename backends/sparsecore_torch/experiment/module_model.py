"""Anybody's ``nn.Module`` as the model of an experiment."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sparsecore.engine.randomness import Randomness
from sparsecore.errors import InputError
from sparsecore.learning.flops import ForwardPass
from sparsecore.learning.parameters import Parameter
from sparsecore_torch.experiment.keyed_draws import drawing
from sparsecore_torch.sparse_training.checks import check_gradients, check_is_plain, check_layouts, check_model
from sparsecore_torch.sparse_training.flops import forward_pass
from sparsecore_torch.sparse_training.model.parameters import named_parameters
from sparsecore_torch.sparse_training.model.selection import Selection, select

Shape = tuple[int, int, int]
"""Height, width and channels of images."""


@attrs.frozen(eq=False)
class ModuleModel:
    """A network that a factory makes; a plugin of :class:`sparsecore.learning.protocols.Model` for one backend.

    Its initial values are those that the factory draws, with torch's generator seeded by the engine's random numbers.

    Attributes:
        name: what selected it.
        make: makes the module from the options and, where it takes them, from what the images say.
        options: of the factory.
        include: globs on names of parameters that become sparse; None for those that :func:`sparsify` chooses.
        exclude: globs on names of parameters that stay dense.
    """

    name: str
    make: Callable[[Mapping[str, Any], Shape, int], Any]
    options: Mapping[str, Any]
    include: Sequence[str] | None = None
    exclude: Sequence[str] | None = None

    def parameters(self, image_shape: Shape, classes: int) -> tuple[Parameter, ...]:
        """Return the parameters and the saved buffers of the module.

        Args:
            image_shape: height, width and channels of the images.
            classes: the number of classes.

        Raises:
            InputError: the factory makes no module, or one that cannot be trained on these images.
        """
        return _parameters(self, image_shape, classes)

    def module(self, image_shape: Shape, classes: int, random: Randomness = Randomness(0)) -> nn.Module:
        """Make the module anew, on the CPU.

        Args:
            image_shape: height, width and channels of the images.
            classes: the number of classes.
            random: the numbers that its initial values are drawn from.

        Raises:
            InputError: the factory makes no module.
        """
        with drawing(random):
            made = self.make(self.options, image_shape, classes)
        if not isinstance(made, nn.Module):
            raise InputError(f"the model {self.name!r} is to make a torch.nn.Module; it made {type(made).__name__}")
        return made

    def selection(self, module: nn.Module) -> Selection:
        """Return the sparse tensors of the module, chosen as :func:`sparsify` chooses them.

        Args:
            module: of :meth:`module`.

        Raises:
            InputError: a glob matches nothing, or no tensor can be sparse.
        """
        check_is_plain(check_model(module))
        selection = select(module, self.include, self.exclude)
        check_layouts(selection.sparse)
        check_gradients(selection.sparse)
        return selection

    def forward_pass(self, image_shape: Shape, classes: int) -> ForwardPass:
        """Return the operations of one image's forward pass in evaluation mode, if the module were dense.

        Args:
            image_shape: height, width and channels of the images.
            classes: the number of classes.

        Raises:
            InputError: no product with a parameter is seen.
        """
        module = self.module(image_shape, classes)
        return forward_pass(module, (_blank_images(module, image_shape),), {})

    def forward(self, *_: Any) -> Any:
        """Refuse to compute with the operations of another backend.

        Raises:
            InputError: always.
        """
        raise InputError(f"{self.name!r} is a PyTorch module, which the backend torch alone computes")


def saved_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Iterate over the parameters, tied ones once, and over the buffers that belong to the state dict.

    Args:
        module: without wrappers.

    Yields:
        Name and tensor, the parameters first.
    """
    for one in named_parameters(module):
        yield one.name, one.parameter
    saved = module.state_dict().keys()
    yield from ((name, buffer) for name, buffer in module.named_buffers() if name in saved)


@attrs.frozen
class _ModuleInitial:
    """The initial values of a parameter: those that the module has when it is made.

    Attributes:
        model: makes it.
        name: of the parameter.
        image_shape: height, width and channels of the images.
        classes: the number of classes.
    """

    model: ModuleModel
    name: str
    image_shape: Shape
    classes: int

    def __call__(
        self,
        shape: tuple[int, ...],  # noqa: ARG002
        positions: NDArray[np.integer],
        random: Randomness,
    ) -> NDArray[np.float64]:
        """The values at some positions, in a module that is made with the numbers of this purpose."""
        drawn = _drawn(self.model, self.image_shape, self.classes, random.seed, str(random.path[0]))
        return np.asarray(drawn[self.name][np.asarray(positions)], np.float64)


@lru_cache(maxsize=1)
def _drawn(model: ModuleModel, image_shape: Shape, classes: int, seed: int, purpose: str) -> Mapping[str, NDArray[Any]]:
    """All values of a module, flat by name; the latest is kept, as they are asked for one tensor after another."""
    module = model.module(image_shape, classes, Randomness(seed).child(purpose, "module"))
    return {name: _on_host(tensor).reshape(-1) for name, tensor in saved_tensors(module)}


def _on_host(tensor: Tensor) -> NDArray[Any]:
    own = tensor.detach()
    return (own if own.dtype in (torch.float32, torch.float64) else own.double()).numpy()


def forget_drawn_values() -> None:
    """Free the initial values of the latest module, which a learner has copied."""
    _drawn.cache_clear()


@lru_cache(maxsize=2)
def _parameters(model: ModuleModel, image_shape: Shape, classes: int) -> tuple[Parameter, ...]:
    module = model.module(image_shape, classes)
    selection = model.selection(module)
    sparse = {one.name for one in selection.sparse}
    _check_saved(model, module)
    _check_computes(model, module, image_shape, classes)
    return tuple(
        Parameter(
            name,
            tuple(tensor.shape) or (1,),
            _ModuleInitial(model, name, image_shape, classes),
            sparse=name in sparse,
            trained=tensor.requires_grad,
            side_order=selection.side_orders.get(name),
        )
        for name, tensor in saved_tensors(module)
    )


def _check_saved(model: ModuleModel, module: nn.Module) -> None:
    """Raise an :class:`InputError` for numbers that a checkpoint could not be read back with."""
    for name, tensor in saved_tensors(module):
        if tensor.is_complex() or not bool(torch.isfinite(tensor.detach()).all()):
            raise InputError(
                f"{name} of the model {model.name!r} has complex numbers or numbers that are not finite, which a run "
                "cannot save; register such a buffer with persistent=False"
            )


@torch.no_grad()
def _check_computes(model: ModuleModel, module: nn.Module, image_shape: Shape, classes: int) -> None:
    """Raise an :class:`InputError` unless the module computes logits of such images."""
    height, width, channels = image_shape
    try:
        logits = module.eval()(_blank_images(module, image_shape))
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        raise InputError(
            f"the model {model.name!r} does not compute images of {channels}×{height}×{width} (channels, height, "
            f"width): {type(error).__name__}: {error}"
        ) from error
    check_logits(logits, 1, classes, model.name)


def _blank_images(module: nn.Module, image_shape: Shape) -> Tensor:
    """Return a batch of one image of zeros."""
    height, width, channels = image_shape
    return torch.zeros(1, channels, height, width, dtype=next(module.parameters()).dtype)


def check_logits(logits: Any, batch: int, classes: int, name: str, positions: Sequence[int] | None = None) -> None:
    """Check what a module has computed.

    Args:
        logits: its result, of any type.
        batch: the number of images.
        classes: the number of classes of the data set.
        name: the model's, for the error.
        positions: how many labels an image has, () for one and (length,) for a sequence; None where it is not known.

    Raises:
        InputError: it is no tensor of (batch, at least ``classes``), or (batch, length, at least ``classes``) where
            every position of a sequence has a label.
    """
    if not isinstance(logits, Tensor):
        raise InputError(
            f"the model {name!r} returns {type(logits).__name__}; expected logits, one tensor of (batch, classes), in "
            "training as in evaluation"
        )
    given = tuple(logits.shape)
    known = positions if positions is not None else given[1:-1]
    if not (2 <= len(given) <= 3 and given[:-1] == (batch, *known) and given[-1] >= classes):
        expected = ", ".join(map(str, (batch, *known[:1], classes)))
        raise InputError(
            f"the model {name!r} returns {given} for a batch of {batch}; expected logits of ({expected}), as the data "
            f"set has {classes} classes"
        )


def factory_with_classes(factory: Callable[..., Any]) -> Callable[[Mapping[str, Any], Shape, int], Any]:
    """Return a maker that tells a factory the number of classes where it has an argument for it.

    Args:
        factory: a function, a class or any other callable; an argument ``num_classes`` is filled in.
    """

    def make(options: Mapping[str, Any], _: Shape, classes: int) -> Any:
        wanted = {"num_classes": classes} if "num_classes" in _arguments(factory) else {}
        return called(factory, {**wanted, **options})

    return make


def _arguments(factory: Callable[..., Any]) -> Sequence[str]:
    try:
        return tuple(inspect.signature(factory).parameters)
    except (TypeError, ValueError):
        return ()


def called(factory: Callable[..., Any], options: Mapping[str, Any]) -> Any:
    """Call a factory with options of a settings file.

    Args:
        factory: of a model or a data set.
        options: its keyword arguments.

    Raises:
        InputError: it refuses them.
    """
    try:
        return factory(**options)
    except (TypeError, ValueError) as error:
        given = ", ".join(f"{key}={value!r}" for key, value in options.items()) or "no options"
        name = getattr(factory, "__name__", repr(factory))
        raise InputError(f"{name} refuses {given}: {error}") from error

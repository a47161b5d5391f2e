"""Export of a model without the neurons and channels that have no weight left."""

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from sparsecore.errors import InputError, SparsecoreError
from sparsecore_torch.sparse_training.checks import check_is_plain, check_not_in_training
from sparsecore_torch.sparse_training.export.channels import Channels
from sparsecore_torch.sparse_training.export.features import Feature, Space
from sparsecore_torch.sparse_training.model.parameters import unwrapped
from sparsecore_torch.sparse_training.storage.compact_modules import plain_copy
from sparsecore_torch.sparse_training.training import SparseTraining


def slim(source: SparseTraining | nn.Module, *example_inputs: Tensor, tolerance: float = 1e-4) -> nn.Module:
    """Return a smaller copy of a model that computes the same in evaluation mode.

    Cut out are neurons and channels that nothing reads, for lack of outgoing weights, and those that are constant, for
    lack of incoming ones: what they contribute moves into the biases of the layers that read them, unless these pad
    their images with zeros, which differ from the constant. Where residual sums add channels, all of the tensors that
    are added lose the same ones. The model's own inputs and outputs keep their sizes, and each layer keeps a channel.

    Args:
        source: a sparse training, or a plain model with zeros, such as one after ``squash()``; it is not changed.
        example_inputs: the arguments of a call; the model and the smaller one must compute the same from them.
        tolerance: how far their outputs may differ, relative and absolute.

    Returns:
        A model of the same class in evaluation mode, with the same names of parameters.

    Raises:
        InputError: ``torch.fx`` cannot trace the model, or it has layers or operations whose channels cannot be
            followed; the sentence names them.
        SparsecoreError: the smaller model does not compute the same.
    """
    model = _plain(source)
    with torch.no_grad():
        expected = model(*example_inputs)
        traced = _traced(model, example_inputs)
        channels = Channels(traced)
        channels.walk()
        _cut(channels, _read(channels))
        _check_same(expected, model, example_inputs, tolerance)
    return model


def _plain(source: SparseTraining | nn.Module) -> nn.Module:
    if isinstance(source, SparseTraining):
        source.check()
        return plain_copy(source.model).eval()
    model = unwrapped(source)
    check_not_in_training(model)
    check_is_plain(model)
    return plain_copy(model).eval()


class _Tracer(fx.Tracer):
    """Traces through modules, but not into those with parameters of their own, such as layers derived from torch's."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        has_own = next(m.parameters(recurse=False), None) is not None and not any(m.children())
        return has_own or super().is_leaf_module(m, module_qualified_name)


def _traced(model: nn.Module, example_inputs: tuple[Tensor, ...]) -> fx.GraphModule:
    try:
        traced = fx.GraphModule(model, _Tracer().trace(model))
    except Exception as error:  # whatever the model's own code raises when it is traced
        raise InputError(f"slim cannot follow this model, because torch.fx cannot trace it: {error}") from error
    ShapeProp(traced).propagate(*example_inputs)
    return traced


def _read(channels: Channels) -> dict[Space, Tensor]:
    """Return for each space which channels something reads, bool; at least one."""
    features = [feature for use in channels.layers for feature in (use.before, use.after)]
    features += [feature for _, feature in channels.channelwise]
    spaces = {feature.space.root for feature in features if feature.space is not None}
    read = {space: torch.full((space.size,), space.is_fixed) for space in spaces}
    uses = [(use, use.reads.cpu()) for use in channels.layers if use.before.space is not None]
    while True:
        before = sum(int(own.sum()) for own in read.values())
        for use, reads in uses:
            _of(read, use.before).logical_or_(reads[_of(read, use.after)].any(0))
        if before == sum(int(own.sum()) for own in read.values()):
            empty = [own for own in read.values() if not own.any()]
            if not empty:
                return read
            for own in empty:  # a layer without channels would be none of torch's
                own[0] = True


def _of(read: dict[Space, Tensor], feature: Feature) -> Tensor:
    if feature.space is None:
        raise KeyError("a feature without channels")
    return read[feature.space.root]


def _cut(channels: Channels, read: dict[Space, Tensor]) -> None:
    for use in channels.layers:
        _keep_outputs(use.module, _of(read, use.after))
        if use.before.space is not None:
            _keep_inputs(use.module, _of(read, use.before).repeat_interleave(use.before.repeat))
    for module, feature in channels.channelwise:
        _keep_outputs(module, _of(read, feature))


_COUNTS_OF_OUTPUTS = ("out_features", "out_channels", "num_features")


def _keep_outputs(module: Any, kept: Tensor) -> None:
    for name in ("weight", "bias", "running_mean", "running_var"):
        tensor = getattr(module, name, None)
        if tensor is not None:
            cut = tensor.detach()[kept.to(tensor.device)].clone()
            setattr(module, name, nn.Parameter(cut, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else cut)
    for name in _COUNTS_OF_OUTPUTS:
        if hasattr(module, name):
            setattr(module, name, int(kept.sum()))
    if getattr(module, "groups", 1) != 1:  # a depthwise convolution
        module.groups = module.in_channels = int(kept.sum())


def _keep_inputs(module: Any, kept: Tensor) -> None:
    cut = module.weight.detach()[:, kept.to(module.weight.device)].clone()
    module.weight = nn.Parameter(cut, module.weight.requires_grad)
    name = "in_features" if hasattr(module, "in_features") else "in_channels"
    setattr(module, name, int(kept.sum()))


def _check_same(expected: Any, model: nn.Module, example_inputs: tuple[Tensor, ...], tolerance: float) -> None:
    try:
        found = model(*example_inputs)
    except RuntimeError as error:
        raise InputError(f"slim cannot follow this model: its code has sizes of its own ({error})") from error
    try:
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance, equal_nan=True)
    except AssertionError as error:
        raise SparsecoreError(f"the smaller model does not compute what the model computes: {error}") from None

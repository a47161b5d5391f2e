"""A tensor that a model takes apart by indices costs one gradient of its size where torch computes the region."""

import operator

import pytest
import torch
from torch import fx, nn

from sparsecore_torch.sparse_training.regions.unbinding import with_unbind


class Parted(nn.Module):
    """Dynamo's form of ``q, k, v = linear(x).unflatten(...).permute(...)``."""

    def __init__(self, read):
        super().__init__()
        self.read = read

    def forward(self, inputs, weight):
        whole = (inputs @ weight).view(4, 3, 5).permute(1, 0, 2)
        return tuple(whole[index] * (index + 1) for index in self.read)


def traced(read):
    module = fx.symbolic_trace(Parted(read))
    inputs, weight = torch.randn(4, 6), torch.randn(6, 15)
    made = fx.passes.shape_prop.ShapeProp(module)
    made.propagate(inputs, weight)
    for node in module.graph.nodes:
        if "tensor_meta" in node.meta and isinstance(node.meta["tensor_meta"], fx.passes.shape_prop.TensorMetadata):
            node.meta["example_value"] = torch.empty(node.meta["tensor_meta"].shape)
    return module, (inputs.requires_grad_(), weight.requires_grad_())


def targets(module):
    return [node.target for node in module.graph.nodes]


def test_all_parts_are_taken_at_once_with_the_same_results_and_gradients():
    module, given = traced((2, 0, 1))
    changed = with_unbind(module)
    assert targets(changed).count(torch.unbind) == 1
    expected, got = module(*given), changed(*given)
    assert all(torch.equal(one, other) for one, other in zip(expected, got, strict=True))
    gradients = [torch.autograd.grad(sum(part.sum() for part in parts), given) for parts in (expected, got)]
    assert all(torch.allclose(one, other) for one, other in zip(*gradients, strict=True))


@pytest.mark.parametrize("read", [(0, 1), (0, 0, 1, 2), (1,)])
def test_a_tensor_of_which_other_parts_are_read_is_left_alone(read):
    module, _ = traced(read)
    assert with_unbind(module) is module
    assert torch.unbind not in targets(module)
    assert operator.getitem in targets(module)

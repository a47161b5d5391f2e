"""The private names of torch that are used: a test that fails says in a sentence what this torch has changed."""

import ctypes
import os
import sys

import pytest

torch = pytest.importorskip("torch")

from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.flop_counter import FlopCounterMode

from sparsecore_torch._torch_internals import autograd, modules, optimizers, processes, tensors


def says(what):
    return f"torch {torch.__version__}: {what}"


def test_the_compiled_module_is_linked_with_the_threads_that_torch_computes_with():
    if "OpenMP" not in torch.__config__.parallel_info():
        pytest.skip("this torch computes without OpenMP")
    runtime = ctypes.CDLL(processes.EXTENSION_FILE, mode=os.RTLD_NOLOAD)
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        threads = runtime.omp_get_max_threads()
    finally:
        torch.set_num_threads(before)
    assert threads == before + 1, says("torch._C.__file__ does not lead to the OpenMP runtime that computes")


def test_a_backward_pass_knows_whether_its_graph_is_kept():
    kept = []

    class Asking(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):  # noqa: ARG004
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):  # noqa: ARG004
            kept.append(autograd.keeps_graph())
            return gradient

    loss = Asking.apply(torch.ones(2, requires_grad=True)).sum()
    loss.backward(retain_graph=True)
    loss.backward()
    assert kept == [True, False], says("a backward pass does not tell whether its graph is kept")


def test_the_innermost_hooks_of_saved_tensors_are_found():
    found = [autograd.innermost_saved_tensor_hooks()]
    with torch.autograd.graph.saved_tensors_hooks(lambda one: one + 1, lambda one: one - 1):
        found.append(autograd.innermost_saved_tensor_hooks())
    assert found[0] is None, says("there seem to be hooks of saved tensors where there are none")
    assert [float(hook(torch.ones(1))) for hook in found[1]] == [2, 0], says("hooks of saved tensors are not found")


def test_modes_that_see_all_operations_are_known_to_be_active():
    from torch.overrides import TorchFunctionMode
    from torch.utils.flop_counter import FlopCounterMode

    seen = [autograd.is_mode_active()]
    for mode in (FlopCounterMode(display=False), TorchFunctionMode()):
        with mode:
            seen.append(autograd.is_mode_active())
    with torch.device("cpu"):
        seen.append(autograd.is_mode_active())
    assert seen == [False, True, True, False], says("active modes are not found")


def test_a_dispatch_mode_sees_the_operations_below_autograd():
    seen = []

    class Mode(autograd.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(function.overloadpacket)
            return function(*args, **(kwargs or {}))

    layer = nn.Linear(3, 2)
    with Mode():
        layer(torch.ones(4, 3))
    assert torch.ops.aten.addmm in seen, says("a dispatch mode sees no product of a linear layer")


def test_writes_to_a_tensor_are_counted_and_writes_through_data_are_not():
    tensor = torch.zeros(3)
    before = tensors.write_count(tensor)
    tensor.add_(1)
    assert tensors.write_count(tensor) == before + 1, says("an in-place operation no longer adds one to _version")
    tensor[:2].mul_(2)
    assert tensors.write_count(tensor) == before + 2, says("writes to a view no longer count for its base")
    tensor.data.add_(1)
    assert tensors.write_count(tensor) == before + 2, says("writes through .data count now; sampling is not needed")


def test_indices_and_values_of_a_sparse_tensor_are_read_before_it_is_coalesced():
    sparse = torch.sparse_coo_tensor([[0, 0]], [1.0, 2.0], (3,), check_invariants=True)
    indices, values = tensors.coo_parts(sparse)
    assert (indices.tolist(), values.tolist()) == ([[0, 0]], [1.0, 2.0]), says("_indices or _values has changed")


def test_tensors_that_share_memory_have_one_storage_identity():
    tensor = torch.zeros(4)
    identity = tensors.storage_identity(tensor)
    assert identity == tensors.storage_identity(tensor[1:]), says("views have storages of their own now")
    assert identity == StorageWeakRef(tensor.untyped_storage()).cdata, says("_cdata is not StorageWeakRef's cdata")
    assert identity != tensors.storage_identity(torch.zeros(4)), says("_cdata is the same for different memory")


def test_a_weak_reference_identifies_a_storage_as_long_as_it_exists():
    tensor = torch.arange(3.0)
    reference = StorageWeakRef(tensor.untyped_storage())
    found = tensors.storage_of_weak_reference(reference.cdata)
    assert found is not None, says("_new_with_weak_ptr does not find a storage that exists")
    assert found.data_ptr() == tensor.data_ptr(), says("_new_with_weak_ptr finds another storage")
    del tensor, found
    assert tensors.storage_of_weak_reference(reference.cdata) is None, says("_new_with_weak_ptr finds what is gone")


def test_base_classes_are_those_of_convolutions_and_norms():
    for layer in (nn.Conv1d, nn.Conv2d, nn.ConvTranspose3d):
        assert issubclass(layer, modules.CONVOLUTION_BASE), says(f"{layer.__name__} is not derived from _ConvNd")
    for layer in (nn.BatchNorm1d, nn.SyncBatchNorm, nn.InstanceNorm2d):
        assert issubclass(layer, modules.NORM_BASE), says(f"{layer.__name__} is not derived from _NormBase")


@pytest.mark.parametrize("layer", [nn.Conv2d, nn.Linear])
def test_forward_methods_are_methods_of_layers(layer):
    methods = [name for name in modules.FORWARD_METHODS if hasattr(layer, name)]
    assert "forward" in methods, says(f"{layer.__name__} has no forward")
    assert ("_conv_forward" in methods) == (layer is nn.Conv2d), says("Conv2d computes in another method")


def test_a_compiled_module_keeps_the_original_under_its_name():
    model = nn.Linear(2, 2)
    compiled = torch.compile(model, backend="eager")
    children = modules.own_modules(compiled)
    assert children.get(modules.COMPILED_MODULE) is model, says("torch.compile keeps the module under another name")


def test_dicts_of_a_module_are_what_its_attributes_are_read_from():
    model = nn.Sequential(nn.BatchNorm1d(2))
    norm = model[0]
    assert modules.own_modules(model)["0"] is norm, says("_modules is not the dict of children")
    assert modules.own_parameters(norm)["weight"] is norm.weight, says("_parameters is not the dict of parameters")
    assert modules.own_buffers(norm)["running_mean"] is norm.running_mean, says("_buffers is not the dict of buffers")
    weight = modules.own_parameters(norm)["weight"] = nn.Parameter(torch.zeros(2))
    assert norm.weight is weight, says("writing to _parameters does not change the attribute")


def test_module_hooks_are_removed_by_their_identity_and_others_stay():
    called = []
    model = nn.Linear(2, 2)
    other = model.register_forward_hook(lambda *_: called.append("other"))
    handles = [
        model.register_forward_pre_hook(lambda *_: called.append("before")),
        model.register_forward_hook(lambda *_: called.append("after"), always_call=True),
        model.register_state_dict_post_hook(lambda *_: called.append("saved")),
        model.register_load_state_dict_pre_hook(lambda *_: called.append("loading")),
    ]
    modules.remove_module_hooks(model, [handle.id for handle in handles])
    model(torch.zeros(1, 2))
    model.load_state_dict(model.state_dict())
    assert called == ["other"], says(f"hooks of modules are kept in other dicts: {called} were called")
    other.remove()


@pytest.mark.parametrize(("padding", "expected"), [(1, (1, 1, 1, 1)), ("same", (2, 2, 1, 1)), ("valid", (0, 0, 0, 0))])
def test_padding_of_a_convolution_is_given_by_side(padding, expected):
    layer = nn.Conv2d(1, 1, (3, 5), padding=padding)
    assert modules.convolution_padding(layer) == expected, says("_reversed_padding_repeated_twice has changed")


def test_assignments_of_the_training_flag_are_recognised_in_setattr():
    class Asked:
        @property
        def __class__(self):
            found.append(modules.is_set_as_training_flag(self, sys._getframe(1)))
            return Asked

    found = []
    nn.Linear(1, 1).training = Asked()
    assert any(found), says("nn.Module.__setattr__ does not look at the class of a value, or has other argument names")
    found.clear()
    nn.Linear(1, 1).other = Asked()
    assert not any(found), says("any attribute is taken for the training flag")


def test_names_that_ddp_is_told_to_ignore_are_kept_on_the_model():
    model = nn.Linear(2, 2)
    assert modules.names_ignored_by_ddp(model) == frozenset()
    nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, ["bias"])
    assert modules.names_ignored_by_ddp(model) == {"bias"}, says("DistributedDataParallel keeps the names elsewhere")


def test_hooks_of_a_tensor_are_in_the_dicts_that_are_read():
    parameter = nn.Parameter(torch.zeros(2))
    assert autograd.tensor_hooks(parameter) == {"_backward_hooks": None, "_post_accumulate_grad_hooks": None}
    parameter.register_hook(lambda gradient: gradient)
    parameter.register_post_accumulate_grad_hook(lambda _: None)
    for name, hooks in autograd.tensor_hooks(parameter).items():
        assert len(hooks) == 1, says(f"{name} does not hold the hooks of a tensor")


def test_a_leaf_distinguishes_accumulation_from_torch_autograd_grad():
    weight = nn.Parameter(torch.ones(2))
    node = torch.autograd.graph.get_gradient_edge(weight).node
    answers = []
    weight.register_hook(lambda _: answers.append(autograd.is_accumulating(node)))
    weight.sum().backward()
    torch.autograd.grad(weight.sum(), [weight])
    assert answers == [True, False], says(f"_will_engine_execute_node answers {answers} in backward() and grad()")
    assert not autograd.is_accumulating(node), says("_will_engine_execute_node answers outside of a backward pass")


def test_transforms_and_forward_mode_are_noticed():
    states = []

    def note(x):
        states.append((autograd.are_transforms_active(), autograd.is_forward_mode_active()))
        return x * 2

    x = torch.ones(2)
    note(x)
    torch.func.vmap(note)(x)
    with torch.autograd.forward_ad.dual_level():
        note(x)
    assert states == [(False, False), (True, False), (False, True)], says(f"states are noticed as {states}")


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace")
def test_tracing_is_noticed():
    states = []

    def note(x):
        states.append(autograd.is_tracing())
        return x * 2

    note(torch.ones(2))
    torch.jit.trace(note, torch.ones(2), check_trace=False)
    assert states == [False, True], says("_get_tracing_state is None while torch.jit.trace runs")


def test_symbolic_tracing_is_noticed():
    states = []

    def note(x):
        states.append(autograd.is_symbolically_tracing())
        return x * 2

    note(torch.ones(2))
    torch.fx.symbolic_trace(note)
    assert states == [False, True], says("is_fx_symbolic_tracing is False while torch.fx.symbolic_trace runs")


def test_batched_gradients_are_recognised():
    weight = nn.Parameter(torch.ones(2))
    answers = []
    weight.register_hook(lambda gradient: answers.append(autograd.is_batched(gradient)))
    torch.autograd.grad(weight * 1, [weight], torch.eye(2), is_grads_batched=True)
    torch.autograd.grad((weight * 1).sum(), [weight])
    assert answers == [True, False], says("the dispatch keys of batched tensors have other names")


def test_an_optimizer_runs_its_own_step_hooks_and_a_forwarding_wrapper_does_not():
    class Forwarding:
        def __init__(self, inner):
            self.inner = inner

        def __getattr__(self, name):
            return getattr(self.inner, name)

        def step(self):
            self.inner.step()

    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    assert optimizers.runs_step_hooks(optimizer), says("optimizers keep their hooks elsewhere, or step is not marked")
    assert not optimizers.runs_step_hooks(Forwarding(optimizer))
    assert optimizers.is_hooks_attribute("_optimizer_step_pre_hooks")
    assert any(map(optimizers.is_hooks_attribute, vars(optimizer))), says("attributes with hooks have other names")


def test_a_step_without_hooks_runs_none():
    called = []
    parameter = nn.Parameter(torch.ones(1))
    parameter.grad = torch.ones(1)
    optimizer = torch.optim.SGD([parameter], lr=0.5)
    optimizer.register_step_post_hook(lambda *_: called.append(True))
    optimizers.step_without_hooks(type(optimizer))(optimizer)
    assert (called, parameter.item()) == ([], 0.5), says("the step under torch's own wrapper is found in another way")


def test_a_hook_that_is_moved_to_the_front_runs_first():
    called = []
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    optimizer.register_step_post_hook(lambda *_: called.append("first"))
    last = optimizer.register_step_post_hook(lambda *_: called.append("last"))
    optimizers.move_to_front(optimizer, last)
    optimizer.step()
    assert called == ["last", "first"], says("post-step hooks run in another order than that of their dict")


def test_the_inner_one_of_two_nested_steps_is_recognised():
    class Derived(torch.optim.SGD):
        def step(self, closure=None):
            return super().step(closure)

    answers = []
    optimizer = Derived([nn.Parameter(torch.zeros(1))], lr=0.1)
    optimizer.register_step_pre_hook(lambda own, *_: answers.append(optimizers.is_within_own_step(own)))
    optimizer.step()
    assert answers == [False, True], says("torch runs the hooks of a step from another function")


def test_the_default_store_is_that_of_the_process_group(tmp_path):
    dist = torch.distributed
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        processes.default_store().set("key", "value")
        assert processes.default_store().get("key") == b"value", says("_get_default_store gives no store")
        vector = torch.ones(2, requires_grad=True)
        (processes.differentiable_sum(vector) * torch.tensor([2.0, 3.0])).sum().backward()
        assert vector.grad.tolist() == [2.0, 3.0], says("the functional all_reduce sums otherwise")
    finally:
        dist.destroy_process_group()


def test_tensors_of_nested_values_are_found_and_changed():
    tree = {"a": [torch.zeros(1), 2], "b": (torch.ones(1),)}
    assert len([leaf for leaf in tensors.tree_leaves(tree) if isinstance(leaf, torch.Tensor)]) == 2
    doubled = tensors.tree_map_only(torch.Tensor, lambda tensor: tensor * 2, tree)
    assert (doubled["b"][0].item(), doubled["a"][1]) == (2.0, 2), says("tree_map_only changes something else")


def test_plain_tensors_are_not_recognised_as_wrappers():
    assert not tensors.is_traceable_wrapper_subclass(torch.zeros(1))
    assert not tensors.is_traceable_wrapper_subclass(nn.Parameter(torch.zeros(1)))


def test_copies_are_made_by_the_copying_operations():
    made = []

    def formula(*tensors, **_):
        made.append(tensors)
        return 0

    setattr(formula, tensors.RAW_FORMULA, True)
    with FlopCounterMode(display=False, custom_mapping=dict.fromkeys(tensors.COPYING_OPERATIONS, formula)):
        torch.ones(2, 3).t().contiguous()
        torch.ones(2, 3).double()
    assert len(made) == 2, says("a copy is made by another operation")


def test_a_marked_formula_of_the_flop_counter_gets_tensors():
    given = []

    def formula(*tensors, out_val=None, **_):
        given.extend([*tensors, out_val])
        return 5

    setattr(formula, tensors.RAW_FORMULA, True)
    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.mm: formula}) as counter:
        torch.ones(2, 3) @ torch.ones(3, 4)
    assert counter.get_total_flops() == 5
    assert [tuple(one.shape) for one in given] == [(2, 3), (3, 4), (2, 4)], says("formulas get shapes alone")

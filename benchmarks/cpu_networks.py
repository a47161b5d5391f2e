"""Networks on the CPU backend as the benchmarks train them, all on the same buffers, as if each were the only one."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from networks import layout_of, noise, task_on
from threadpoolctl import threadpool_limits

from sparsecore.engine.topology import Layout, Topology
from sparsecore.host.learner import HostLearner
from sparsecore.learning.protocols import Model
from sparsecore_cpu import CpuBackend
from sparsecore_cpu.operations import CpuComputation
from sparsecore_cpu.runtime import Runtime
from sparsecore_models.wrn import WideResNet

Shape = tuple[int, int, int]


def wide_resnet_layout(shape: Shape) -> Layout:
    """The sparse tensors of WRN-28-2."""
    return layout_of(WideResNet().parameters(shape, 10))


def learner_on(
    topology: Topology, machine: Runtime, shape: Shape, model: Model = WideResNet(), examples: int = 1000
) -> HostLearner:
    """A network with these weights, ready to train on noise; like :meth:`CpuBackend.learner`, on a given machine."""
    backend = CpuBackend(threads=machine.threads)
    task = task_on(topology, backend, noise(shape, examples), model)
    return HostLearner(task, backend.dtype, CpuComputation(machine))


@contextmanager
def threads_of_all(threads: int) -> Iterator[None]:
    """Within it, torch and BLAS compute with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with threadpool_limits(limits=threads, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)

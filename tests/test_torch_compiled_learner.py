"""A compiled network trains the same, and updates do not compile it again."""

from collections.abc import Iterator
from typing import Any

import attrs
import numpy as np
import pytest
from test_numpy_learner import batch_of, batches, images_of

torch = pytest.importorskip("torch")


from torch_learner_examples import RULES, Normalized, learner_of, reallocation_of, task_of

from sparsecore.engine.topology import Topology
from sparsecore.errors import InputError
from sparsecore_torch.experiment.compilation import compiled_by
from sparsecore_torch.experiment.device import DeviceConfig
from sparsecore_torch.experiment.learner import TorchLearner


def compiled_learner(backend: Any = "aot_eager", **options: Any) -> TorchLearner:
    """Compiled but for the last stage, which makes machine code and takes most of the time."""
    config = DeviceConfig(torch.device("cpu"), torch.float64, torch.float64, torch.channels_last, compiled_by(backend))
    return TorchLearner(task_of(**options), config)


# torch.compile asks tensors for gradients that they do not have, and hides the warning only where it is not an error
quietly = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")


@pytest.fixture
def compilations() -> Iterator[Any]:
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    yield lambda: counters["stats"]["unique_graphs"]
    torch._dynamo.reset()


@quietly
def test_a_compiled_network_trains_the_same_and_reallocations_do_not_recompile_it(compilations: Any) -> None:
    rule = RULES["Nesterov"]
    learner, plain = compiled_learner(optimizer=rule), learner_of(optimizer=rule)
    plan, test = list(batches(4)), images_of().test
    for part in (learner, plain):
        part.train(plan[0], 0.1)
        part.evaluate(test)
    assert compilations() == 2  # training and evaluation
    counts = task_of().topology.counts
    for _ in range(2):
        for part in (learner, plain):
            part.reallocate(reallocation_of(part)[1])
        assert (learner._network.topology.counts != counts).all()
        for part in (learner, plain):
            for batch in plan[1:]:
                part.train(batch, 0.1)
            part.evaluate(test)
        # the same update again, from a topology like the first
        for part in (learner, plain):
            part.load_state(task_of().topology, part.state())
    assert compilations() == 2
    np.testing.assert_allclose(learner.values, plain.values, rtol=1e-10, atol=1e-12)
    assert learner.totals().loss == pytest.approx(plain.totals().loss, rel=1e-10)


@quietly
def test_tensors_of_one_weight_or_of_equal_counts_compile_like_all_others(compilations: Any) -> None:
    task = task_of()
    layout = task.topology.layout
    topologies = [
        Topology.of(layout, torch.tensor(positions, dtype=torch.int32), task.topology.arrays)
        for positions in (
            [*range(5), *(layout.offsets[1] + i for i in range(5)), layout.offsets[2], layout.offsets[3]],
            [0, 1, layout.offsets[1], layout.offsets[2], *(layout.offsets[3] + i for i in range(8))],
        )
    ]
    learner = TorchLearner(
        attrs.evolve(task, topology=topologies[0], values=torch.arange(12.0, dtype=torch.float64) / 12),
        compiled_learner()._config,
    )
    for topology in topologies:
        learner.load_state(topology, learner.state())
        learner.train(batch_of(range(9)), 0.1)
    assert compilations() == 1


@quietly
@pytest.mark.usefixtures("compilations")
def test_unsupported_use_of_a_compiled_network_raises_one_error_sentence() -> None:
    vectors = images_of(side=1)
    learner = compiled_learner(model=Normalized(), images=vectors)
    learner.train(batch_of(range(9)), 0.1)
    with pytest.raises(InputError, match="more than one value a channel"):
        learner.train(batch_of([1]), 0.1)

    def no_compiler(*_: Any) -> Any:
        raise RuntimeError("no working C++ compiler")

    with pytest.raises(InputError, match=r"cannot be compiled: .*no working C\+\+ compiler; without backend\.compile"):
        compiled_learner(no_compiler).train(batch_of(range(9)), 0.1)

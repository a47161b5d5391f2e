"""What the learners of all backends promise alike: sums of losses, evaluation, augmentation, states and their bits."""

import hashlib
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

import attrs
import numpy as np
import pytest
from processes import call
from test_numpy_learner import assert_equal_states, batch_of, batches, images_of, loss_of
from test_numpy_learner import task_of as task_on_the_host

from sparsecore.data.images import Batch, Images, Split, augmented
from sparsecore.engine.topology import Topology
from sparsecore.learning.protocols import Adam, Learner, Optimizer, Sgd, Task
from sparsecore_numpy import NumpyBackend


@attrs.frozen(eq=False)
class Subject:
    """A backend under test.

    Attributes:
        make: returns the learner of a task, in a dtype.
        place: returns a task with its arrays where the backend has them.
        dtype: the most exact dtype of the backend.
        rounding: relative error of sums in this dtype.
    """

    make: Callable[[Task, str], Learner]
    place: Callable[[Task], Task] = lambda task: task
    dtype: str = "float64"
    rounding: float = 1e-10

    def task(self, dtype: str | None = None, **options: Any) -> Task:
        return self.place(task_on_the_host(dtype or self.dtype, **options))

    def learner(self, dtype: str | None = None, **options: Any) -> Learner:
        return self.make(self.task(dtype, **options), dtype or self.dtype)


def on_torch(device: str) -> Subject:
    from torch_learner_examples import on_device

    from sparsecore_torch import TorchBackend

    return Subject(
        lambda task, dtype: TorchBackend(device=device, dtype=dtype).learner(task), lambda task: on_device(task, device)
    )


def on_cpu(task: Task, _: str) -> Learner:
    from sparsecore_cpu import CpuBackend

    return CpuBackend(2).learner(task)


def on_jax() -> Subject:
    from sparsecore_jax import JaxBackend

    return Subject(lambda task, dtype: JaxBackend(dtype=dtype).learner(task), on_jax_s_arrays)


def on_jax_s_arrays(task: Task) -> Task:
    from sparsecore_jax import JaxArrays

    arrays = JaxArrays()
    topology = Topology.of(task.topology.layout, arrays.from_numpy(task.topology.host_positions), arrays)
    return attrs.evolve(task, topology=topology, values=arrays.from_numpy(np.asarray(task.values)))


def subjects() -> Mapping[str, Subject]:
    """Every backend that is installed, torch once on each kind of device."""
    found = {"numpy": Subject(lambda task, dtype: NumpyBackend(dtype).learner(task))}
    if find_spec("torch"):
        from torch_devices import DEVICES

        found |= {f"torch on {device}": on_torch(device) for device in DEVICES}
    if find_spec("jax"):
        found["jax"] = on_jax()
    if find_spec("sparsecore_cpu") and find_spec("sparsecore_cpu._kernels"):
        found["cpu"] = Subject(on_cpu, dtype="float32", rounding=1e-5)
    return found


SUBJECTS = subjects()


def _param(name: str) -> Any:
    # JAX compiles each network again; its own tests have the kit's promises, which are nearly the same
    return pytest.param(name, marks=pytest.mark.slow) if name == "jax" else name


@pytest.fixture(params=[_param(name) for name in SUBJECTS])
def subject(request: pytest.FixtureRequest) -> Subject:
    return SUBJECTS[request.param]


def test_totals_are_sums_over_the_examples_until_they_are_reset(subject: Subject) -> None:
    learner = subject.learner()
    first = loss_of(learner, batch_of(range(10)))
    second = loss_of(learner, batch_of(range(10, 14)))
    learner.reset_totals()
    learner.train(batch_of(range(10)), 0.0)
    learner.train(batch_of(range(10, 14)), 0.0)
    totals = learner.totals()
    assert totals.loss == pytest.approx(10 * first + 4 * second, rel=subject.rounding)
    assert totals.examples == 14
    assert 0 <= totals.correct <= 14
    learner.reset_totals()
    assert attrs.astuple(learner.totals()) == (0.0, 0, 0)


def test_evaluation_leaves_training_as_it_was_and_depends_on_no_other_example(subject: Subject) -> None:
    learner, test = subject.learner(), images_of().test
    learner.train(batch_of(range(20)), 0.1)
    before = learner.state()
    parts = [learner.evaluate(Split(test.images[rows], test.labels[rows])) for rows in (slice(0, 1), slice(1, 17))]
    whole = learner.evaluate(test)
    assert_equal_states(learner.state(), before)
    assert (whole.examples, whole.correct) == (17, parts[0].correct + parts[1].correct)
    assert whole.loss == pytest.approx(parts[0].loss + parts[1].loss, rel=subject.rounding)
    learner.train(batch_of(range(20)), 0.0)  # which moves running statistics alone
    assert learner.evaluate(test).loss != whole.loss


def test_a_split_larger_than_a_batch_of_evaluation_counts_every_example_once(subject: Subject) -> None:
    learner, images = subject.learner(), images_of(examples=1500)
    totals = learner.evaluate(images.train)
    halves = [
        learner.evaluate(Split(images.train.images[rows], images.train.labels[rows]))
        for rows in (slice(0, 700), slice(700, None))
    ]
    assert totals.examples == 1500
    assert totals.correct == halves[0].correct + halves[1].correct
    assert totals.loss == pytest.approx(halves[0].loss + halves[1].loss, rel=subject.rounding)


def test_training_images_are_augmented_as_the_batch_plans(subject: Subject) -> None:
    images = images_of()
    rows = np.arange(20)
    plan = Batch(rows, np.random.default_rng(0).integers(0, 5, (20, 2)), rows % 2 == 0, 2)
    pictures = images.train.images.copy()
    pictures[20:] = augmented(pictures, plan)
    labels = np.concatenate([images.train.labels[:20]] * 2)
    images = Images(Split(pictures, labels), images.test, 3)
    losses = [loss_of(subject.learner(images=images), batch) for batch in (plan, batch_of(rows + 20), batch_of(rows))]
    assert losses[0] == losses[1] != losses[2]


def test_read_only_images_are_accepted(subject: Subject) -> None:
    images = images_of()
    for split in (images.train, images.test):
        split.images.flags.writeable = split.labels.flags.writeable = False
    subject.learner(images=images).train(batch_of(range(4)), 0.1)


def test_a_nonfinite_loss_appears_in_the_totals(subject: Subject) -> None:
    learner = subject.learner("float32")
    for batch in batches(3):
        learner.train(batch, 1e30)
    assert not np.isfinite(learner.totals().loss)


def test_the_learner_does_not_change_its_task(subject: Subject) -> None:
    task = subject.task()
    to_numpy = task.topology.arrays.to_numpy
    values, others = to_numpy(task.values).copy(), {name: each.copy() for name, each in task.other_parameters.items()}
    subject.make(task, subject.dtype).train(batch_of(range(9)), 0.5)
    np.testing.assert_array_equal(to_numpy(task.values), values)
    assert_equal_states(task.other_parameters, others)


def test_a_smaller_batch_after_a_larger_one_computes_the_same_as_alone(subject: Subject) -> None:
    learner, fresh = subject.learner("float32"), subject.learner("float32")
    start = learner.state()
    learner.train(batch_of(range(40)), 0.1)
    learner.evaluate(images_of().train)
    learner.load_state(subject.task("float32").topology, start)
    for one in learner, fresh:
        one.train(batch_of(range(3)), 0.1)
    assert_equal_states(learner.state(), fresh.state())


@pytest.mark.parametrize("optimizer", [Sgd(), Adam()], ids=["momentum", "Adam"])
def test_replaced_values_keep_the_optimizer_state(subject: Subject, optimizer: Optimizer) -> None:
    learner = subject.learner(optimizer=optimizer)
    learner.train(batch_of(range(9)), 0.1)
    before = learner.state()
    learner.set_values(learner.values + 1)
    assert_equal_states(learner.state(), before | {"values": before["values"] + 1})


def bits_after_three_steps(name: str) -> str:
    learner = SUBJECTS[name].learner("float32", optimizer=Sgd(weight_decay=0.01))
    for batch in batches(3):
        learner.train(batch, 0.1)
    return hashlib.sha256(learner.state()["values"].tobytes()).hexdigest()


@pytest.mark.integration
@pytest.mark.parametrize("name", [_param(name) for name in SUBJECTS if "cuda" not in name])
def test_another_process_gets_the_same_bits(name: str) -> None:
    (ended,) = call(bits_after_three_steps, name, size=1)
    assert ended.answer == bits_after_three_steps(name)

"""Training in compact storage equals training with masks."""

import copy

import pytest

torch = pytest.importorskip("torch")

from compact_examples import Convolutions, Mlp, Transformer, batches, loss_of, started, train
from pairwise import every_other, every_pair
from torch import nn
from torch.utils.checkpoint import checkpoint

from sparsecore_torch import sparsify
from sparsecore_torch.sparse_training.storage.compact_modules import make_dense

NETWORKS = {
    "mlp": Mlp,
    "transformer": Transformer,
    "transformer, not tied": lambda: Transformer(tied=False),
    "convolutions": Convolutions,
}


def assert_same(compact, masked, **tolerance):
    """Equal topologies, and values bit for bit unless a tolerance is given."""
    assert torch.equal(compact.topology.positions, masked.topology.positions)
    if tolerance:
        torch.testing.assert_close(compact.values(), masked.values(), **tolerance)
    else:
        assert torch.equal(compact.values(), masked.values())


def both(make, **options):
    return [started(make, storage, **options) for storage in ("masked", "compact")]


@every_pair(optimizer=["sgd", "adamw"], strategy=["dpr", "gradually"], network=NETWORKS)
def test_compact_training_equals_training_with_masks_bit_for_bit(network, strategy, optimizer):
    check_equal_training(network, strategy, optimizer)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("strategy", ["set", "deepr", "gradient"])
@pytest.mark.parametrize("network", NETWORKS)
def test_compact_training_by_other_strategies_equals_that_with_masks(network, strategy, optimizer):
    check_equal_training(network, strategy, optimizer)


def check_equal_training(network, strategy, optimizer):
    losses, trainings = [], []
    for model, trains, training in both(NETWORKS[network], optimizer=optimizer, strategy=strategy):
        losses.append(train(model, trains, 32))
        trainings.append(training)
    assert losses[0] == losses[1]
    assert_same(trainings[1], trainings[0])
    assert trainings[0].updates >= 6
    assert trainings[0].topology.sha256() != started(NETWORKS[network], "masked")[2].topology.sha256()


@every_other(network=["mlp", "transformer", "convolutions"], optimizer=["sgd", "adamw"])
def test_clipping_by_norm_equals_that_of_masks_within_rounding(network, optimizer):
    trainings = []
    for model, trains, training in both(NETWORKS[network], optimizer=optimizer, dtype=torch.float64):
        train(model, trains, 31, clip=0.2)
        trainings.append(training)
    assert_same(trainings[1], trainings[0], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "rmsprop", "adagrad"])
def test_optimizer_state_of_earlier_dense_training_is_kept(optimizer):
    trainings = []
    for model, trains, training in both(Mlp, optimizer=optimizer, before=4):
        train(model, trains, 12)
        trainings.append(training)
    assert_same(trainings[1], trainings[0])


def test_the_optimizer_trains_the_active_values_and_the_dense_parameters():
    model, trains, training = started(Mlp, "compact")
    assert {name: tuple(one.shape) for name, one in model.named_parameters()} == {
        "sparse_values": (training.topology.size,),
        "0.bias": (20,),
        "2.bias": (16,),
        "4.bias": (3,),
    }
    train(model, trains, 2)
    assert {id(one) for one in trains.param_groups[0]["params"]} == {id(one) for one in model.parameters()}
    assert trains.state[model.sparse_values]["momentum_buffer"].shape == (training.topology.size,)


def test_learning_rate_schedules_and_parameter_groups_still_apply():
    rates = []
    for storage in ("masked", "compact"):
        torch.manual_seed(0)
        model = Mlp()
        weights = [one for one in model.parameters() if one.ndim > 1]
        biases = [one for one in model.parameters() if one.ndim == 1]
        trains = torch.optim.SGD([{"params": biases}, {"params": weights, "weight_decay": 0.1}], lr=0.1)
        sparsify(model, trains, strategy="static", include="*weight", storage=storage)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(trains, 5)
        for _ in range(3):
            rates.append((schedule.get_last_lr(), train(model, trains, 1)))
            schedule.step()
    assert rates[:3] == rates[3:]


def test_micro_batches_and_closures_train_like_masks():
    trainings = []
    for model, trains, training in both(Mlp, strategy="gradient"):

        def closure(model=model, trains=trains):
            trains.zero_grad(set_to_none=False)
            losses = [loss_of(model, given) for given in batches(model, 2)]
            for loss in losses:
                loss.backward()
            return sum(losses)

        for _ in range(11):
            trains.step(closure)
        trainings.append(training)
    assert_same(trainings[1], trainings[0])


def test_a_discarded_gradient_does_not_affect_the_dense_gradient():
    trainings = []
    for model, trains, training in both(Mlp, strategy="gradient"):
        for given in batches(model, 11):
            loss_of(model, given * 100).backward()
            trains.zero_grad()
            loss_of(model, given).backward()
            trains.step()
            trains.zero_grad()
        trainings.append(training)
    assert_same(trainings[1], trainings[0])


def test_dense_gradients_are_without_the_loss_scale():
    trainings = []
    for model, trains, training in both(Mlp, strategy="gradient"):
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        for given in batches(model, 11):
            trains.zero_grad()
            scaler.scale(loss_of(model, given)).backward()
            scaler.step(trains)
            scaler.update()
        trainings.append(training)
    assert_same(trainings[1], trainings[0])


def test_a_step_that_the_scaler_skips_is_not_counted():
    model, trains, training = started(Mlp, "compact")
    scaler = torch.amp.GradScaler("cpu")
    before = training.values().clone()
    (scaler.scale(loss_of(model, next(batches(model, 1)))) * torch.inf).backward()
    scaler.step(trains)
    assert training.step == 0
    assert torch.equal(training.values(), before)


def test_dense_gradients_equal_those_of_dense_weights_and_are_released_after_the_step():
    model, trains, training = started(Transformer, "compact", strategy="gradient")
    storage = training._parts.storage
    plain = copy.deepcopy(model)
    make_dense(plain)
    storage.expect_gradient(dense=True)
    for given in batches(model, 3):
        loss_of(model, given).backward()
        loss_of(plain, given).backward()
    for name, dense in plain.named_parameters():
        if name in training.topology.layout.names:
            torch.testing.assert_close(storage.gradient(name).view_as(dense), dense.grad)
    trains.step()
    with pytest.raises(RuntimeError, match=r"head\.weight"):
        storage.gradient("head.weight")


def test_autocast_trains_like_masks():
    trainings = []
    for model, trains, training in both(Transformer):
        for given in batches(model, 12):
            trains.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                assert model.head.weight.dtype is (torch.bfloat16 if hasattr(model, "sparse_values") else torch.float32)
                loss = loss_of(model, given)
            loss.backward()
            trains.step()
        assert training.values().dtype is torch.float32
        trainings.append(training)
    assert_same(trainings[1], trainings[0], rtol=1e-2, atol=1e-3)


class LeftAlone(nn.Module):
    """Layers that autocast leaves in single precision, or that compute with their weight before it is used."""

    def __init__(self):
        super().__init__()
        self.pairs = nn.Bilinear(6, 6, 8)
        self.bounded = nn.utils.parametrizations.spectral_norm(nn.Linear(8, 3))

    def forward(self, given):
        return self.bounded(torch.tanh(self.pairs(given, given)))


def test_layers_that_autocast_does_not_cast_compute_as_with_masks():
    outputs = []
    for storage in ("masked", "compact"):
        torch.manual_seed(0)
        model = LeftAlone()
        trains = torch.optim.SGD(model.parameters(), lr=0.1)
        sparsify(model, trains, strategy="static", sparsity=0.5, include=["pairs.weight", "*original"], storage=storage)
        given = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
        with torch.autocast("cpu", torch.bfloat16):
            model(given).float().square().mean().backward()
        trains.step()
        outputs.append(model.eval()(given))
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("grad", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_evaluation_equals_that_of_masks(grad):
    masked, compact = (one[0].eval() for one in both(Transformer))
    given = next(batches(masked, 1))
    with grad():
        torch.testing.assert_close(compact(given), masked(given))


def test_attention_with_separate_query_key_and_value_trains_like_masks():
    outputs = []
    for storage in ("masked", "compact"):
        torch.manual_seed(0)
        model = nn.MultiheadAttention(8, 2, kdim=6, vdim=4)
        trains = torch.optim.SGD(model.parameters(), lr=0.1)
        sparsify(model, trains, strategy="static", include="*weight", sparsity=0.5, storage=storage)
        random = torch.Generator().manual_seed(1)
        query, key, value = (torch.randn(3, 5, side, generator=random) for side in (8, 6, 4))
        model(query, key, value)[0].square().sum().backward()
        trains.step()
        outputs.append(model.eval()(query, key, value)[0])
    torch.testing.assert_close(outputs[0], outputs[1])


class Unusual(nn.Module):
    """A list of parameters, an einsum, a parametrized weight, one weight in two sums of its own."""

    def __init__(self):
        super().__init__()
        self.factors = nn.ParameterList([torch.randn(6, 5), torch.randn(5, 6)])
        self.mixing = nn.Parameter(torch.randn(3, 6, 4))
        self.bounded = nn.Linear(4, 3)
        nn.utils.parametrize.register_parametrization(self.bounded, "weight", nn.Tanh())

    def forward(self, given):
        hidden = given @ self.factors[0] @ self.factors[1]
        return self.bounded(torch.tanh(torch.einsum("bi,hio->bo", hidden, self.mixing) + self.mixing.sum((0, 1))))


def test_custom_modules_train_like_masks():
    trainings = []
    for storage in ("masked", "compact"):
        torch.manual_seed(0)
        model = Unusual()
        trains = torch.optim.Adam(model.parameters(), lr=0.01)
        chosen = ["factors.*", "mixing", "*original"]
        training = sparsify(model, trains, strategy="static", sparsity=0.5, include=chosen, storage=storage)
        for given in batches(Mlp(), 6):
            trains.zero_grad()
            model(given).square().mean().backward()
            trains.step()
        trainings.append(training)
    assert len(trainings[1].topology.layout) == 4
    assert_same(trainings[1], trainings[0])


def test_a_layer_called_alone_or_without_gradients_computes_as_with_masks():
    model, _, _ = started(Mlp, "compact")
    plain = copy.deepcopy(model)
    make_dense(plain)
    given = torch.randn(4, 6)
    model[0](given).sum().backward()
    plain[0](given).sum().backward()
    active = plain[0].weight.detach() != 0
    assert torch.equal(model.sparse_values.grad[: active.sum()], plain[0].weight.grad[active])
    assert not model.sparse_values.grad[active.sum() :].any()

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 4)

        def forward(self, given):
            with torch.enable_grad():
                return self.layer(given)

    outer = Outer()
    sparsify(
        outer, torch.optim.SGD(outer.parameters(), lr=0.1), strategy="static", include="*weight", storage="compact"
    )
    with torch.no_grad():
        output = outer(given)
    output.sum().backward()
    assert outer.sparse_values.grad.any()


def test_recomputed_activations_give_the_same_gradients():
    model, _, _ = started(Transformer, "compact")
    gradients = []
    given = next(batches(model, 1))
    for through in (model.encoder, lambda x: checkpoint(model.encoder, x, use_reentrant=False)):
        model.zero_grad()
        model.head(through(model.embedding(given))).square().sum().backward()
        gradients.append(model.sparse_values.grad.clone())
    torch.testing.assert_close(gradients[0], gradients[1])


def test_second_derivatives_equal_those_of_masks():
    gradients = []
    for model, trains, training in both(Mlp, dtype=torch.float64):
        given = next(batches(model, 1)).requires_grad_()
        (slope,) = torch.autograd.grad(model(given).sum(), given, create_graph=True)
        slope.square().sum().backward()
        trains.step()
        gradients.append(training.values())
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize("backend", ["aot_eager"])
def test_a_compiled_model_trains_the_same(backend):
    trainings = []
    for compiled in (False, True):
        torch._dynamo.reset()
        model, trains, training = started(Mlp, "compact", optimizer="adamw")
        called = torch.compile(model, backend=backend) if compiled else model
        for given in batches(model, 12):
            trains.zero_grad()
            nn.functional.cross_entropy(called(given), torch.arange(12) % 3).backward()
            trains.step()
        trainings.append(training)
    assert_same(trainings[1], trainings[0])


def test_a_copy_of_the_model_has_values_of_its_own():
    model, _, _ = started(Transformer, "compact")
    copied = copy.deepcopy(model)
    given = next(batches(model, 1))
    before = model(given)
    assert torch.equal(copied(given), before)
    with torch.no_grad():
        copied.sparse_values.zero_()
    assert torch.equal(model(given), before)
    assert not copied(given).any()
    loss_of(copied, given).backward()
    assert model.sparse_values.grad is None
    assert copied.sparse_values.grad is not None


def test_squash_gives_the_same_model_as_squash_of_masks():
    ended = []
    for model, trains, training in both(Transformer, optimizer="adamw"):
        train(model, trains, 12)
        training.squash()
        ended.append((model, trains, train(model, trains, 3, start=50)))
    (masked, masks_optimizer, masks_losses), (compact, optimizer, losses) = ended
    assert losses == masks_losses
    assert {name: type(one) for name, one in compact.named_modules()} == {
        name: type(one) for name, one in masked.named_modules()
    }
    assert list(compact.state_dict()) == list(masked.state_dict())
    assert [name for name, _ in compact.named_parameters()] == [name for name, _ in masked.named_parameters()]
    assert compact.head.weight is compact.embedding.weight
    assert not compact._forward_hooks
    assert not compact._forward_pre_hooks
    torch.testing.assert_close(optimizer.state_dict(), masks_optimizer.state_dict(), rtol=0, atol=0)
    fresh = Transformer()
    fresh.load_state_dict(compact.state_dict())


def test_training_resumes_bit_for_bit():
    model, trains, training = started(Transformer, "compact", optimizer="adamw")
    train(model, trains, 12)
    saved = copy.deepcopy([one.state_dict() for one in (model, trains, training)])
    whole = train(model, trains, 12, start=12)
    again = started(Transformer, "compact", optimizer="adamw")
    for one, state in zip(again, saved, strict=True):
        one.load_state_dict(state)
    assert train(*again[:2], 12, start=12) == whole
    assert_same(again[2], training)


def test_gradual_pruning_carries_its_state_and_resumes():
    model, trains, training = started(Mlp, "compact", optimizer="adamw", strategy="gradually")
    whole = training.topology.size
    losses = [loss_of(model, given) for given in batches(model, 1)]  # alive, and with it what autograd remembers
    losses[0].backward()
    train(model, trains, 12)
    assert len(model.sparse_values) == training.topology.size < 0.9 * whole
    assert training.memory().values.measured == 4 * (training.topology.size + 20 + 16 + 3)
    saved = copy.deepcopy([one.state_dict() for one in (training, model, trains)])
    later = train(model, trains, 12, start=12)
    model, trains, again = started(Mlp, "compact", optimizer="adamw", strategy="gradually")
    train(model, trains, 1)
    for one, state in zip((again, model, trains), saved, strict=True):
        one.load_state_dict(state)
    assert train(model, trains, 12, start=12) == later
    assert_same(again, training)


def test_the_memory_of_parameters_gradients_and_momentum_is_below_a_seventh_of_dense():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(200, 300), nn.ReLU(), nn.Linear(300, 300), nn.ReLU(), nn.Linear(300, 10))
    dense = 3 * sum(one.numel() * one.element_size() for one in model.parameters())
    trains = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    training = sparsify(model, trains, strategy="static", include="*weight", storage="compact")
    nn.functional.cross_entropy(model(torch.randn(4, 200)), torch.arange(4)).backward()
    trains.step()
    memory = training.memory()
    parts = (memory.values, memory.gradients, memory.optimizer_state)
    assert sum(part.measured for part in parts) < 0.15 * dense
    assert [part.measured for part in parts] == [part.theoretical for part in parts]
    assert memory.indices.measured == 4 * training.topology.size

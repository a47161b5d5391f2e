"""What cannot be used is refused with a sentence, and model and optimizer stay as they were."""

import attrs
import pytest

torch = pytest.importorskip("torch")

from sparsify_examples import everything, loss_at, mlp, often, sgd, train
from torch import nn

from sparsecore.engine.hooks import hookimpl
from sparsecore.engine.schedules import Cosine, Every
from sparsecore.errors import InputError, SparsecoreError
from sparsecore_strategies.deepr import DeepRewiring
from sparsecore_strategies.dpr import DynamicReallocation
from sparsecore_strategies.set import SparseEvolution
from sparsecore_torch import sparsify


@attrs.frozen(eq=False)
class Opaque:
    """Nobody can tell from its fields that it needs the end of the run."""

    @hookimpl
    def update_due(self, clock):
        return Every(steps=5, until=0.5)(clock)


OPTIONS = {
    "sparsity of 1": ({"sparsity": 1.0}, r"sparsity must lie in \[0, 1\)"),
    "negative sparsity": ({"sparsity": -0.1}, r"sparsity must lie in \[0, 1\)"),
    "percent": ({"sparsity": 90}, "given 90"),
    "no number": ({"sparsity": "0.9"}, r"sparsity must lie in \[0, 1\)"),
    "several numbers": ({"sparsity": [0.9]}, r"sparsity must lie in \[0, 1\).*given \[0.9\]"),
    "complex number": ({"sparsity": 0.9j}, r"sparsity must lie in \[0, 1\).*given 0.9j"),
    "unknown strategy": ({"strategy": "rigel"}, "no strategy named 'rigel'; installed: .*dpr"),
    "class": ({"strategy": DynamicReallocation}, r"give an instance"),
    "no strategy": ({"strategy": []}, "no strategy was given"),
    "something else": ({"strategy": 3}, "implements no hook"),
    "stacked twice": ({"strategy": ["dpr", "set", "dpr"], "steps_per_epoch": 5}, "the strategy dpr is stacked twice"),
    "unknown storage": ({"storage": "csr"}, "no storage named 'csr'; known: .*masked"),
    "too large a target": (
        {"strategy": DynamicReallocation(target=20_000, schedule=Every(steps=5))},
        "prune 20000 weights an update, but there are only",
    ),
    "missing end": (
        {"strategy": DynamicReallocation(target=5, schedule=Every(steps=5, until=0.5))},
        "DynamicReallocation needs the end of the run; give total_steps=",
    ),
    "missing end, within": (
        {"strategy": DeepRewiring(temperature=Cosine(1e-5))},
        "DeepRewiring needs the end of the run; give total_steps=",
    ),
    "missing end, hidden": ({"strategy": Opaque()}, "needs the end of the run; [^=]*total_steps="),
    "missing epochs": (
        {"strategy": SparseEvolution()},
        r"SparseEvolution counts epochs; give steps_per_epoch=, or a schedule in steps",
    ),
    "missing epochs, paper's": ({"strategy": DynamicReallocation(target=5)}, "give steps_per_epoch="),
    "no step": ({"total_steps": 0}, "total_steps is a whole number of at least 1; given 0"),
    "half a step": ({"steps_per_epoch": 0.5}, "steps_per_epoch is a whole number of at least 1; given 0.5"),
    "seed": ({"seed": 2**64}, "a seed is a whole number from 0 to 9007199254740992; given 18446744073709551616"),
    "include nothing": ({"include": "encoder.*"}, r"include='encoder.\*' matches no parameter; the model has 0.weight"),
    "exclude nothing": ({"exclude": ["0.*", "9.*"]}, r"exclude='9.\*' matches no parameter"),
    "exclude all": ({"exclude": "*"}, r"no tensor is left to make sparse: .*0.weight \(excluded\)"),
    "only biases": ({"include": "*.bias"}, r"include='\*\.bias' names no tensor that can be sparse: 0\.bias \(bias\)"),
    "a bias beside a weight": (
        {"include": ["2.weight", "0.bias"]},
        r"include='0\.bias' names no tensor that can be sparse: 0\.bias \(bias\)",
    ),
    "no glob": ({"include": [3]}, "include is a glob on parameter names"),
    "no glob at all": ({"exclude": 7}, "exclude is a glob .*given 7"),
    "several storages": ({"storage": ["masked"]}, r"no storage named .*masked.*; known: "),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_unusable_options_are_refused(case):
    options, sentence = OPTIONS[case]
    model = mlp()
    optimizer = sgd(model)
    train(model, optimizer, [0])
    before = everything(model, optimizer)
    with pytest.raises(InputError, match=sentence):
        sparsify(model, optimizer, **options)
    assert everything(model, optimizer) == before
    assert sparsify(model, optimizer).step == 0  # nothing was left half done


def sparse_embedding():
    return nn.Sequential(nn.Embedding(5, 5, sparse=True), nn.Linear(5, 5), nn.Linear(5, 3))


def two_devices():
    return nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6, device="meta"), nn.Linear(6, 3))


def lazy():
    return nn.Sequential(nn.LazyLinear(5), nn.Linear(5, 5), nn.Linear(5, 3))


MODELS = {
    "nothing but a last layer": (
        lambda: nn.Linear(6, 3),
        r"no tensor is left .*weight \(last linear layer\).*include=",
    ),
    "no parameters": (nn.ReLU, "the model has no parameters"),
    "only norms": (lambda: nn.BatchNorm1d(6), r"no tensor is left to make sparse: weight \(norm\), bias \(norm\)"),
    "frozen": (lambda: mlp().requires_grad_(False), r"0.weight \(frozen\)"),
    "several devices": (two_devices, "on several devices, cpu, meta"),
    "no values": (lambda: mlp().to("meta"), "device 'meta', without values"),
    "no shapes": (lazy, "0.weight, 0.bias have no shape yet; run one batch"),
    "sparse gradients": (sparse_embedding, "0.weight would have sparse gradients"),
}


PARAMETERS = {
    "expanded": (lambda: torch.randn(6, 1).expand(6, 6), r"entries that share memory \(its strides are \(1, 0\)\)"),
    "expanded by rows": (lambda: torch.randn(6).expand(6, 6), "entries that share memory"),
    "overlapping windows": (lambda: torch.randn(16).unfold(0, 6, 2), "entries that share memory"),
    "coordinates": (lambda: torch.randn(6, 6).to_sparse(), "has the layout torch.sparse_coo"),
    "compressed rows": (lambda: torch.randn(6, 6).to_sparse_csr(), "has the layout torch.sparse_csr"),
    "negated": (lambda: torch.randn(6, 6, dtype=torch.complex64).conj().imag, "negates its memory"),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
@pytest.mark.parametrize("storage", ["masked", "compact"])
@pytest.mark.parametrize("case", PARAMETERS)
def test_parameters_whose_entries_cannot_change_one_by_one_are_refused_by_name(case, storage):
    make, sentence = PARAMETERS[case]
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3))
    model[1].weight = nn.Parameter(make())
    optimizer = sgd(model)
    before = everything(model, optimizer)
    with pytest.raises(InputError, match=f"1.weight .*{sentence}.*exclude='1.weight'"):
        sparsify(model, optimizer, storage=storage)
    assert everything(model, optimizer) == before
    assert sparsify(model, optimizer, storage=storage, exclude="1.weight").memory().values.measured > 0


@pytest.mark.parametrize("storage", ["masked", "compact"])
@pytest.mark.parametrize(
    "make",
    [lambda: torch.randn(6, 12)[:, ::2], lambda: torch.randn(6, 6).t(), lambda: torch.randn(1, 36).view(6, 6)],
    ids=["every second column", "transposed", "a view"],
)
def test_views_without_shared_entries_are_trained_like_any_tensor(make, storage):
    def weights(detach):
        model = mlp()
        torch.manual_seed(1)
        model[0], model[2] = nn.Linear(6, 6), nn.Linear(6, 6)
        model[4] = nn.Linear(6, 3)
        model[2].weight = nn.Parameter(detach(make()))
        optimizer = sgd(model)
        training = sparsify(model, optimizer, strategy=often(every=1), sparsity=0.5, storage=storage)
        train(model, optimizer, range(3))
        training.squash()
        return [parameter.detach() for parameter in model.parameters()]

    for mine, its in zip(weights(lambda view: view), weights(lambda view: view.contiguous()), strict=True):
        torch.testing.assert_close(mine, its)


@pytest.mark.parametrize("storage", ["masked", "compact"])
def test_gradients_of_a_dense_embedding_may_be_sparse_and_are_counted(storage):
    model = nn.Sequential(nn.Embedding(9, 6, sparse=True), nn.Linear(6, 6), nn.Linear(6, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    training = sparsify(model, optimizer, exclude="0.*", sparsity=0.5, storage=storage)
    model(torch.tensor([1, 2, 2])).sum().backward()
    optimizer.step()
    dense = 4 * (model[1].bias.numel() + model[2].weight.numel() + model[2].bias.numel())
    sparse = 4 * 18 if storage == "compact" else 4 * 36
    # three rows of six entries, and where they are
    assert training.memory().gradients.measured == dense + sparse + 3 * 6 * 4 + 3 * 8


@pytest.mark.filterwarnings("ignore:Lazy modules")
@pytest.mark.parametrize("case", MODELS)
def test_unusable_models_are_refused(case):
    make, sentence = MODELS[case]
    model = make()
    optimizer = torch.optim.SGD(list(model.parameters()) or [torch.zeros(1, requires_grad=True)], lr=0.1)
    compare = case != "no shapes"
    before = everything(model, optimizer) if compare else None
    with pytest.raises(InputError, match=sentence):
        sparsify(model, optimizer)
    assert (everything(model, optimizer) if compare else None) == before


def test_objects_that_are_not_a_model_or_optimizer_are_refused():
    model = mlp()
    with pytest.raises(InputError, match=r"takes a torch.nn.Module and its optimizer, in this order; given int"):
        sparsify(3, sgd(model))
    with pytest.raises(InputError, match=r"takes an optimizer of torch.optim, .*given None"):
        sparsify(model, None)
    with pytest.raises(InputError, match=r"given a module, Sequential$"):
        sparsify(model, model)


def test_an_optimizer_without_the_parameters_is_refused():
    model, other = mlp(), mlp()
    before = everything(model, sgd(model))
    for optimizer, strange in (
        (sgd(other), "0.weight, 2.weight"),
        (torch.optim.SGD(model[2].parameters(), lr=0.1), "0.weight"),
    ):
        with pytest.raises(InputError, match=f"the optimizer does not hold {strange};"):
            sparsify(model, optimizer)
    assert everything(model, sgd(model)) == before


@pytest.mark.parametrize("make", [torch.optim.LBFGS, torch.optim.SparseAdam])
def test_optimizers_that_do_not_work_elementwise_are_refused(make):
    model = mlp()
    optimizer = make(model.parameters())
    before = everything(model, optimizer)
    with pytest.raises(InputError, match=f"{make.__name__} cannot train sparse tensors"):
        sparsify(model, optimizer)
    assert everything(model, optimizer) == before


@pytest.mark.parametrize("storage", ["masked", "compact"])
@pytest.mark.parametrize(
    "again",
    [lambda model: model, lambda model: torch.compile(model, backend="eager"), nn.DataParallel, nn.Sequential],
    ids=["itself", "compiled", "parallel", "inside another"],
)
@pytest.mark.filterwarnings("ignore::sparsecore.errors.LostWeightsWarning")  # positions are drawn anew on purpose
def test_sparsifying_a_model_in_sparse_training_is_refused_until_squash(again, storage):
    model = mlp()
    optimizer = sgd(model)
    training = sparsify(model, optimizer, sparsity=0.5, storage=storage)
    before = everything(model, optimizer)
    with pytest.raises(InputError, match=r"0.weight.* in sparse training already.*squash"):
        sparsify(again(model), optimizer)
    assert everything(model, optimizer) == before
    training.squash()
    assert sparsify(again(model), optimizer, sparsity=0.5).sparsity == 0.5


def test_two_parts_of_a_model_may_be_trained_separately():
    model = mlp()
    first = torch.optim.SGD(model[0].parameters(), lr=0.1)
    second = torch.optim.SGD(model[2].parameters(), lr=0.1)
    trainings = [
        sparsify(model[0], first, include="weight", sparsity=0.5),
        sparsify(model[2], second, include="weight", sparsity=0.75),
    ]
    loss_at(model, 0).backward()
    second.step()
    assert [training.step for training in trainings] == [0, 1]


def test_an_unexpected_sparse_gradient_is_refused_immediately():
    weight = nn.Parameter(torch.ones(4, 4))
    model = nn.ParameterDict({"weight": weight, "other": nn.Parameter(torch.ones(4, 4))})
    sparsify(model, sgd(model), sparsity=0.5, include="*")
    with pytest.raises(SparsecoreError, match="the gradient of weight is sparse"):
        nn.functional.embedding(torch.tensor([1]), weight, sparse=True).sum().backward()


def test_a_failed_update_leaves_the_weights_of_the_step():
    @attrs.frozen(eq=False)
    class Broken:
        @hookimpl
        def grow(self):
            raise RuntimeError("out of luck")

    model = mlp()
    optimizer = sgd(model)
    training = sparsify(model, optimizer, strategy=[often(every=1), Broken()], sparsity=0.75)
    masks = training.masks()
    with pytest.raises(RuntimeError, match="out of luck"):
        train(model, optimizer, [0])
    assert training.step == 0
    assert all(torch.equal(mask, masks[name]) for name, mask in training.masks().items())
    assert all(not model.get_parameter(name)[~mask].any() for name, mask in masks.items())

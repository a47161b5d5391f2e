"""``sparsify`` on a CUDA device: exact zeros, one compilation, mixed precision, and going on on the CPU."""

import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("there is no CUDA device", allow_module_level=True)

from sparsify_examples import assert_inactive_is_zero, batch, convnet, often, sparse_parameters
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.functional import cross_entropy

from sparsecore_torch import sparsify

OPTIMIZERS = {
    "sgd, foreach": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, foreach=True),
    "sgd, fused": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, fused=True),
    "adam, fused": lambda p: torch.optim.Adam(p, lr=0.05, fused=True),
    "adamw, foreach": lambda p: torch.optim.AdamW(p, lr=0.05, foreach=True),
}


def train_on_cuda(model, optimizer, scaler, steps, memory_format=torch.contiguous_format):
    for step in steps:
        images, labels = (tensor.cuda() for tensor in batch(step, (2, 5, 5)))
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.float16, enabled=scaler.is_enabled()):
            loss = cross_entropy(model(images.contiguous(memory_format=memory_format)), labels)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()


def on_host(model, optimizer, training):
    """The masks are on the host already."""
    masks = training.masks()
    for name, parameter in sparse_parameters(model, training).items():
        assert parameter.is_cuda
        assert not parameter.detach().cpu()[~masks[name]].any()
        for entry in optimizer.state[parameter].values():
            if isinstance(entry, torch.Tensor) and entry.shape == parameter.shape:
                assert not entry.cpu()[~masks[name]].any()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_inactive_weights_are_zero_after_every_step(optimizer, mixed, memory_format):
    model = convnet().cuda().to(memory_format=memory_format)
    made = OPTIMIZERS[optimizer](model.parameters())
    training = sparsify(model, made, strategy=often(), sparsity=0.75)
    scaler = torch.amp.GradScaler("cuda", init_scale=2.0**8, enabled=mixed)
    for step in range(6):
        train_on_cuda(model, made, scaler, [step], memory_format)
        on_host(model, made, training)
    assert training.updates == 3


def test_recurrent_weights_flattened_by_cudnn_train_sparsely():
    torch.manual_seed(0)
    model = nn.ModuleDict({"lstm": nn.LSTM(6, 8), "end": nn.Linear(8, 3)}).cuda()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    training = sparsify(model, optimizer, strategy=often(), sparsity=0.75)
    for step in range(6):
        optimizer.zero_grad()
        images, labels = (tensor.cuda() for tensor in batch(step))
        cross_entropy(model["end"](model["lstm"](images)[0]), labels).backward()
        optimizer.step()
        on_host(model, optimizer, training)
    assert training.updates == 3


def test_updates_do_not_recompile():
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("inductor")
    model = convnet().cuda()
    optimizer = OPTIMIZERS["adam, fused"](model.parameters())
    training = sparsify(model, optimizer, strategy=often(), sparsity=0.75)
    train_on_cuda(
        torch.compile(model, backend=counter), optimizer, torch.amp.GradScaler("cuda", enabled=False), range(6)
    )
    assert training.updates == 3
    assert counter.frame_count == 1


def test_training_on_cuda_resumes_on_the_cpu(tmp_path):
    model = convnet().cuda()
    optimizer = OPTIMIZERS["sgd, foreach"](model.parameters())
    training = sparsify(model, optimizer, strategy=often(), sparsity=0.75)
    train_on_cuda(model, optimizer, torch.amp.GradScaler("cuda", enabled=False), range(5))
    torch.save([part.state_dict() for part in (model, optimizer, training)], tmp_path / "saved.pt")
    here = convnet(1)
    here_optimizer = torch.optim.SGD(here.parameters(), lr=0.1, momentum=0.9)
    resumed = sparsify(here, here_optimizer, strategy=often(), sparsity=0.75)
    saved = torch.load(tmp_path / "saved.pt", map_location="cpu", weights_only=True)
    for part, state in zip((here, here_optimizer, resumed), saved, strict=True):
        part.load_state_dict(state)
    images, labels = batch(5, (2, 5, 5))
    cross_entropy(here(images), labels).backward()
    here_optimizer.step()
    assert_inactive_is_zero(here, here_optimizer, resumed)
    assert (resumed.step, resumed.updates) == (6, 3)

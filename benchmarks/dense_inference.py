"""A trained network as others run it: dense, with zeros where it has no weights, on torch and on ONNX Runtime."""

import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from plain_torch import WideResNet
from torch import Tensor, nn

from sparsecore_cpu.inference import TrainedNetwork

Predict = Callable[[], Any]
"""The logits of some images, (batch, classes), as an array."""

_PARTS = {"scale": "weight", "shift": "bias", "mean": "running_mean", "variance": "running_var"}


def dense_network(network: TrainedNetwork) -> nn.Module:
    """WRN-28-2 in torch with the network's values, ready to be evaluated."""
    topology, dense = network.topology, dict[str, Any](network.dense)
    for name, shape in zip(topology.layout.names, topology.layout.shapes, strict=True):
        whole = np.zeros(int(np.prod(shape)), np.float32)
        whole[topology.local(name)] = network.values[topology.slots(name)]
        dense[name] = whole.reshape(shape)
    model = WideResNet(network.pictures.shape[2], network.pictures.classes)
    unnamed = model.load_state_dict({_torch_name(name): torch.from_numpy(dense[name]) for name in dense}, strict=False)
    if unnamed.unexpected_keys or any(not name.endswith("num_batches_tracked") for name in unnamed.missing_keys):
        raise SystemExit(f"torch's network is another one: {unnamed}")
    return model.eval()


def given_to(network: TrainedNetwork, images: Any) -> Tensor:
    """The images normalized, (batch, channels, height, width)."""
    pictures = network.pictures
    normalized = ((images - pictures.mean) / pictures.std).astype(np.float32)
    return torch.from_numpy(np.ascontiguousarray(normalized.transpose(0, 3, 1, 2)))


def channels_last(network: TrainedNetwork, images: Any, threads: int) -> Predict:
    """On torch."""
    return _on_torch(network, images, threads, torch.channels_last)


def contiguous(network: TrainedNetwork, images: Any, threads: int) -> Predict:
    """On torch."""
    return _on_torch(network, images, threads, torch.contiguous_format)


def onnx_runtime(network: TrainedNetwork, images: Any, threads: int) -> Predict:
    """From a file for batches of this size."""
    import onnxruntime

    torch.set_num_threads(1)  # for the export alone
    given = given_to(network, images)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)  # the exporter's, of parts of torch that it uses
        path = Path(folder) / "network.onnx"
        torch.onnx.export(dense_network(network), (given,), path, dynamo=True, external_data=False, verbose=False)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: given.numpy()}
    return lambda: session.run(None, feed)[0]


def _on_torch(network: TrainedNetwork, images: Any, threads: int, memory_format: torch.memory_format) -> Predict:
    torch.set_num_threads(threads)
    model = dense_network(network).to(memory_format=memory_format)
    given = given_to(network, images).contiguous(memory_format=memory_format)

    def predict() -> Any:
        with torch.inference_mode():
            return model(given).numpy()

    return predict


def _torch_name(name: str) -> str:
    """'group2.block3.norm1.scale' is 'blocks.6.norm1.weight' there."""
    parts = name.replace("first.conv", "first.weight").replace("last.norm", "norm").split(".")
    parts[-1] = _PARTS.get(parts[-1], parts[-1])
    if not parts[0].startswith("group"):
        return ".".join(parts)
    number = 4 * (int(parts[0][-1]) - 1) + int(parts[1][-1]) - 1
    end = parts[2:] if "norm" in parts[2] else [parts[2], "weight"]
    return ".".join(["blocks", str(number), *end])

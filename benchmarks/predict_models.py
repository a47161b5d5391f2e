"""Predictions of sparse networks that everybody knows, beside dense ones of ONNX Runtime and of OpenVINO.

    python benchmarks/predict_models.py [--models ResNet-18] [--threads 1 2] [--batches 1 16] [--sparsity 0.9]

Each predicts in a process of its own, and they take turns. All predict the same from the same weights, which is made
sure of before. OpenVINO takes part where it is installed, also with its option for sparse weights. Results of other
networks, batches and numbers of threads are kept in the files.
"""

import argparse
import json
import statistics
import warnings
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import quiet_machine
from machine import sentence
from worker_processes import alone, in_turn
from writing import RESULTS, table, write

from sparsecore_cpu.inference import Predictor

MODELS = ("WRN-28-2", "ResNet-18", "VGG-16", "ResNet-50", "MobileNetV2", "ViT-Tiny", "GPT-2 block", "MLP")
DEFAULT = ("WRN-28-2", "ResNet-18", "MobileNetV2", "GPT-2 block")
OURS = "CPU backend"
NAME = "predict_models"

EXAMPLES = 32
"""A sample is the time of so many examples, in batches that are predicted one after another."""


def main() -> None:
    options = _options()
    report = _known()
    for model in options.models:
        with TemporaryDirectory() as folder:
            alone(_write_files, model, options.sparsity, options.batches, Path(folder))
            _measure(model, Path(folder), options, report)
    print(page(report), end="")


def _measure(model: str, folder: Path, options: argparse.Namespace, report: dict[str, Any]) -> None:
    """Measure the network, whose files are in the folder, and write the report with it."""
    times, facts = {}, {}
    for threads, batch in product(options.threads, options.batches):
        times[f"threads {threads}, batch {batch}"], machine = _measured(options, folder, threads, batch)
        facts |= machine
    settings = {name: vars(options)[name] for name in ("rounds", "patience", "busy", "sparsity")}
    sizes = dict.fromkeys(times, EXAMPLES)
    before = report["measured"].get(model)
    if before and before["settings"]["sparsity"] == options.sparsity:
        times, sizes = before["ms an example"] | times, before["examples"] | sizes
    entry = {"machine": facts, "settings": settings, "examples": sizes, "ms an example": times}
    report["measured"][model] = entry
    write(NAME, report, page(report), is_shown=False)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    quiet_machine.add_options(parser, rounds=11)
    parser.add_argument(
        "--models", nargs="+", default=list(DEFAULT), choices=MODELS, metavar="MODEL", help=f"of {', '.join(MODELS)}"
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="of each (default: 1 2)")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16], help="examples at a time (default: 1 16)")
    parser.add_argument("--sparsity", type=float, default=0.9, help="of each layer (default: 0.9)")
    return parser.parse_args()


def _write_files(name: str, sparsity: float, batches: list[int], folder: Path) -> None:
    """The network as each of them reads it, and a batch of examples."""
    import torch
    from model_networks import NETWORKS, sparse_network

    model = sparse_network(name, sparsity)
    examples = torch.randn(max(batches), *NETWORKS[name][1])
    Predictor.of_model(model, examples[:2], threads=1).save(folder / "network.safetensors")
    np.save(folder / "examples.npy", examples.numpy())
    for batch in batches:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning)  # the exporter's, of parts of torch that it uses
            path, given = folder / f"network {batch}.onnx", (examples[:batch],)
            torch.onnx.export(model, given, path, dynamo=True, external_data=False, verbose=False)


def _measured(
    options: argparse.Namespace, folder: Path, threads: int, batch: int
) -> tuple[dict[str, float], dict[str, Any]]:
    """Milliseconds an example of each; the machine."""
    makers: dict[str, Any] = {OURS: _sparse, "ONNX Runtime": _onnx_runtime}
    if find_spec("openvino"):
        makers["OpenVINO"] = partial(_openvino, 1.0)
        makers["OpenVINO, sparse weights"] = partial(_openvino, 0.5)
    steps = {name: partial(_repeated, make, folder, threads, batch) for name, make in makers.items()}
    seconds, machine = in_turn(steps, options)
    examples = batch * _batches(batch)
    times = {name: round(1e3 * statistics.median(samples) / examples, 4) for name, samples in seconds.items()}
    return times, machine


def _repeated(
    maker: Callable[[Path, int, Any], Callable[[], Any]],
    folder: Path,
    threads: int,
    batch: int,
    options: argparse.Namespace,  # noqa: ARG001
) -> Callable[[], Any]:
    """The predictions of a sample; those of a batch are compared with ours."""
    examples = np.load(folder / "examples.npy")[:batch]
    predict = maker(folder, threads, examples)
    expected = Predictor.load(folder / "network.safetensors", 1).predict(examples)
    if not np.allclose(predict(), expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max()):
        raise SystemExit("one of them predicts something else")

    def sample() -> None:
        for _ in range(_batches(batch)):
            predict()

    return sample


def _batches(size: int) -> int:
    """The number of batches of a sample."""
    return max(1, EXAMPLES // size)


def _sparse(folder: Path, threads: int, examples: Any) -> Callable[[], Any]:
    predictor = Predictor.load(folder / "network.safetensors", threads)
    return lambda: predictor.predict(examples)


def _onnx_runtime(folder: Path, threads: int, examples: Any) -> Callable[[], Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    path = str(folder / f"network {len(examples)}.onnx")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: examples}
    return lambda: session.run(None, feed)[0]


def _openvino(rate: float, folder: Path, threads: int, examples: Any) -> Callable[[], Any]:
    import openvino

    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE": rate,
    }
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(folder / f"network {len(examples)}.onnx"), "CPU", settings)
    request = compiled.create_infer_request()
    return lambda: request.infer([examples])[0]


def _known() -> dict[str, Any]:
    path = RESULTS / f"{NAME}.json"
    return json.loads(path.read_text("utf-8")) if path.exists() else {"measured": {}}


def page(report: dict[str, Any]) -> str:
    entries = [(model, report["measured"][model]) for model in MODELS if model in report["measured"]]
    names = list(dict.fromkeys(name for _, entry in entries for by in entry["ms an example"].values() for name in by))
    rows = [
        [
            f"{model}, {setting}",
            f"{entry['settings']['sparsity']:g}",
            str(entry["examples"][setting]),
            *(f"{times[name]:.3f}" if name in times else "" for name in names),
            f"{_gain(times):.2f}",
        ]
        for model, entry in entries
        for setting, times in entry["ms an example"].items()
    ]
    busy = {"busy": any(entry["settings"]["busy"] for _, entry in entries)}
    rounds = min(entry["settings"]["rounds"] for _, entry in entries)
    facts = [{name: fact for name, fact in entry["machine"].items() if "threads" not in name} for _, entry in entries]
    machines = "\n\n".join(dict.fromkeys(map(sentence, facts)))
    return f"""# Predictions of sparse networks on the CPU

{quiet_machine.caveat(busy)}Milliseconds an example in float32, at the given sparsity of each layer but the first
convolution and depthwise ones; medians over at least {rounds} rounds of so many examples, one batch after another.
Images of WRN-28-2, ResNet-18 and VGG-16 are 32×32×3, others 224×224×3; the block of GPT-2 has 768 features and 128
tokens. ONNX Runtime and OpenVINO compute with the zeros. The last column is the time of the fastest of the others,
relative to the CPU backend's.

{table(("", "sparsity", "examples", *names, "gain"), rows)}

{machines}
"""


def _gain(times: dict[str, float]) -> float:
    return min(time for name, time in times.items() if name != OURS) / times[OURS]


if __name__ == "__main__":
    main()

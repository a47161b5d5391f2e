"""Predictions of WRN-28-2 on the CPU backend, compared with dense ones of torch and ONNX Runtime.

    python benchmarks/cpu_inference.py [--threads 1 2] [--batches 1 16] [--rounds 31]

Each predicts in a process of its own, and they take turns: pools of threads in one process take the cores from one
another. All of them predict the same from the same values, which is made sure of before.
"""

import argparse
import statistics
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import quiet_machine
from machine import sentence
from networks import noise, task
from worker_processes import in_turn
from writing import table, write

from sparsecore.experiment.plugin_choice import PluginChoice
from sparsecore_cpu import CpuBackend
from sparsecore_cpu.inference import Predictor, TrainedNetwork
from sparsecore_cpu.inference.network import ImageInfo
from sparsecore_models.wrn import WideResNet

SHAPE = (32, 32, 3)
SPARSITIES = (0.9, 0.95, 0.98)
PEERS: Mapping[str, str] = {
    "torch, channels last": "channels_last",
    "torch, contiguous": "contiguous",
    "ONNX Runtime": "onnx_runtime",
}
"""What makes them in ``dense_inference``, which the CPU backend's own processes do not import: it imports torch."""

IMAGES = 64
"""That are predicted in one sample, batch by batch."""


def main() -> None:
    options = _options()
    taken = {
        f"threads {threads}, batch {batch}": _measured(options, threads, batch)
        for threads in options.threads
        for batch in options.batches
    }
    machines = [facts for _, facts in taken.values()]
    report = {
        "machine": {name: value for facts in machines for name, value in facts.items()},
        "settings": vars(options),
        "image": list(SHAPE),
        "times": {name: times for name, (times, _) in taken.items()},
    }
    write("cpu_inference", report, page(report))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    quiet_machine.add_options(parser, rounds=31)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="of each (default: 1 2)")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16], help="images at a time (default: 1 16)")
    parser.add_argument("--sparsities", type=float, nargs="+", default=SPARSITIES, help="the same in all tensors")
    return parser.parse_args()


def _measured(options: argparse.Namespace, threads: int, batch: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Milliseconds an image of each, and how many times as long as ours they take; the machine."""
    ours = {f"sparsity {sparsity:g}": partial(_sparse, sparsity, threads, batch) for sparsity in options.sparsities}
    peers = {name: partial(_dense, name, threads, batch) for name in PEERS}
    seconds, machine = in_turn({**ours, **peers}, options)
    times = {
        name: {
            "ms": round(1e3 * statistics.median(samples) / (IMAGES // batch * batch), 4),
            "times_ours": {one: round(quiet_machine.ratio(samples, seconds[one]), 2) for one in ours},
        }
        for name, samples in seconds.items()
    }
    return times, machine


def _sparse(sparsity: float, threads: int, batch: int, options: argparse.Namespace) -> Callable[[], None]:  # noqa: ARG001
    network = _network(sparsity)
    predictor, images = Predictor.of(network, threads), _images(batch)
    return _repeated(lambda: predictor.predict(images), batch)


def _dense(name: str, threads: int, batch: int, options: argparse.Namespace) -> Callable[[], None]:
    import dense_inference

    network, images = _network(options.sparsities[0]), _images(batch)
    predict = getattr(dense_inference, PEERS[name])(network, images, threads)
    if not np.allclose(predict(), Predictor.of(network, 1).predict(images), rtol=1e-3, atol=1e-4):
        raise SystemExit(f"{name} predicts something else than the CPU backend")
    return _repeated(predict, batch)


def _repeated(predict: Callable[[], object], batch: int) -> Callable[[], None]:
    def several() -> None:
        for _ in range(IMAGES // batch):
            predict()

    return several


def _network(sparsity: float) -> TrainedNetwork:
    model, images = WideResNet(), noise(SHAPE)
    begun = task(CpuBackend(threads=1), images, sparsity, model)
    pictures = ImageInfo(images.shape, images.classes, images.mean, images.std)
    dense = {name: np.asarray(array, np.float32) for name, array in begun.other_parameters.items()}
    return TrainedNetwork(
        PluginChoice("wrn-28-2", model), pictures, np.asarray(begun.topology.positions), begun.values, dense
    )


def _images(batch: int) -> Any:
    return noise(SHAPE).test.images[:batch]


def page(report: dict[str, Any]) -> str:
    sections = "\n\n".join(
        f"## {name}\n\n{_table(times, report['settings']['sparsities'])}" for name, times in report["times"].items()
    )
    return f"""# Predictions of WRN-28-2 on the CPU

Images of {"×".join(map(str, SHAPE))}, float32; medians over {report["settings"]["rounds"]} rounds. In each, every
process predicted {IMAGES} images, batch by batch, while the others waited. The CPU backend takes uint8 images and
normalizes them; torch (evaluation, inference mode) and ONNX Runtime are given what is normalized already. They are
dense: their times do not depend on the sparsity. The ratios are medians of the rounds' ratios.

{sections}

{sentence(report["machine"])}
"""


def _table(times: dict[str, Any], sparsities: list[float]) -> str:
    ours = [f"sparsity {sparsity:g}" for sparsity in sparsities]
    head = ("", "ms an image", *(f"times as long as at {one}" for one in ours))
    rows = [
        [name, f"{facts['ms']:.3f}", *(f"{facts['times_ours'][one]:.2f}" for one in ours)]
        for name, facts in times.items()
    ]
    return table(head, rows)


if __name__ == "__main__":
    main()

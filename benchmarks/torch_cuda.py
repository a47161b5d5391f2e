"""All that is to be tried and measured on a CUDA device, by one command that can be stopped and called again.

    python benchmarks/torch_cuda.py [--seconds 540] [--data cifar10 --data-dir DIR]

Its stages: the tests that need a device; the step, the update and images/s over an epoch of WRN-28-2, dense and sparse,
in float32 (without TF32 throughout) and bfloat16 (autocast), compiled and not; an epoch by ``sparsecore train``; one
trial of ``sparsecore study fig1a``. A call ends before ``--seconds`` are over and says what is left. Finished stages
are kept in results/torch_cuda.json; tests, the run and the study continue where they stopped. The page says what has
not been measured. Without a CUDA device nothing is measured and nothing written; ``--device cpu --out DIR`` rehearses
all of it, with small sizes, and writes to that folder.
"""

import argparse
import fnmatch
import itertools
import json
import re
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import machine, sentence
from networks import batch_of, noise, task
from plain_torch import Loop, optimizer_of, wide_resnet
from reallocation import Update
from stages import Record, Result, Stage, Unfinished, measure_all, output_of
from writing import RESULTS, table

from sparsecore import Clock, Engine, Every
from sparsecore.engine.schedules import Amount
from sparsecore_models.wrn import WideResNet
from sparsecore_strategies.dpr import DynamicReallocation
from sparsecore_torch import TorchArrays, TorchBackend, sparsify

UPDATE_EVERY = 100
NOT_MEASURED = "not measured"

DTYPES: Mapping[str, "torch.dtype | None"] = {"float32": None, "bfloat16": torch.bfloat16}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is not measured yet, and write the page; 0 where nothing is left."""
    options = _options(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("not measured: no CUDA device")
        return 0
    torch.backends.cudnn.allow_tf32 = False
    settings = {key: each for key, each in vars(options).items() if key not in ("seconds", "only", "out")}
    record = Record.of(options.out / "torch_cuda.json", settings)
    stages = _stages(options)
    chosen = [stage for stage in stages if any(fnmatch.fnmatchcase(stage.name, only) for only in options.only)]
    left = measure_all(chosen, record, options.seconds, machine())
    page = _page(record, stages)
    (options.out / "torch_cuda.md").write_text(page, "utf-8")
    print(page, end="")
    if left:
        print(f"{len(left)} stages are left; call this again: {', '.join(left)}", file=sys.stderr)
    return int(bool(left))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--seconds", type=float, default=540, help="how long this call may take (default: 540)")
    add("--only", action="append", metavar="PATTERN", help="stages whose name is like this, as 'step*'; repeatable")
    add("--out", type=Path, help="folder of the results (default: benchmarks/results)")
    add("--device", choices=("cuda", "cpu"), default="cuda")
    add("--rounds", type=int, default=10, help="samples of so many --steps, and updates (default: 10)")
    add("--steps", type=int, default=20, help="of one sample (default: 20)")
    add("--warm-up", type=int, default=30, help="steps before they are measured (default: 30)")
    add("--batch", type=int, default=100, help="images a step (default: 100)")
    add("--images", type=int, default=50_000, help="of an epoch (default: 50000)")
    add("--side", type=int, default=32, help="of the images, in pixels (default: 32)")
    add("--sparsity", type=float, default=0.9, help="of the 3x3 convolutions in blocks (default: 0.9)")
    add("--model", default="wrn-28-2", help="of the run and the study (default: wrn-28-2)")
    add("--data", default="digits", help="of the run and the study (default: digits)")
    add("--data-dir", help="folder with the data set's files")
    add("--epochs", type=int, help="of the study's runs (default: as the presets say)")
    add("--arm", action="append", help="of the study, only this one; repeatable")
    add("--tests", default="tests", help="the tests (default: tests)")
    options = parser.parse_args(arguments)
    if options.device == "cpu" and options.out is None:
        parser.error("a rehearsal needs a folder of its own: give --out DIR")
    options.out = options.out or RESULTS
    options.only = options.only or ["*"]
    return options


def _stages(options: argparse.Namespace) -> list[Stage]:
    """All, in the order in which they are measured."""
    needs = 150 if options.device == "cuda" else 0  # a rehearsal is small
    variants = itertools.product(WAYS, DTYPES, (False, True))
    return [
        Stage("tests", partial(_tests, options)),
        *(Stage(_step_name(*variant), partial(_measured, *variant, options), needs) for variant in variants),
        Stage("update", lambda _: _update(options), needs),
        Stage("epoch of sparsecore train", partial(_run, options)),
        Stage("trial of fig1a", partial(_study, options)),
    ]


def _step_name(way: str, dtype: str, compiled: bool) -> str:
    return f"step: {way}, {dtype}{', compiled' if compiled else ''}"


def _tests(options: argparse.Namespace, seconds: float) -> Result:
    """The tests whose name says CUDA, file by file; what each came to is kept until all are done."""
    end = time.monotonic() + seconds
    root, tests = Path(__file__).parent.parent, Path(options.tests)
    pytest = [sys.executable, "-m", "pytest", "-q", "-k", "cuda", "-p", "no:cacheprovider"]
    listed = output_of([*pytest, "--collect-only", options.tests], seconds, accepted=(0, 5), folder=root)
    named = sorted({line.partition("::")[0] for line in listed.splitlines() if "::" in line})
    files = [name if (root / name).exists() else str(tests / name) for name in named]
    kept = options.out / "torch_cuda_tests.json"
    found: dict[str, Result] = json.loads(kept.read_text("utf-8")) if kept.exists() else {}
    for file in files:
        if file not in found:
            left = end - time.monotonic()
            said = output_of([*pytest, "--tb=line", file], left, accepted=(0, 1, 5), folder=root)
            found[file] = _counted(said)
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(found, indent=2), "utf-8")
    if not files:
        raise RuntimeError(f"no test of {options.tests} says CUDA in its name")
    kept.unlink()
    return {"files": found}


def _counted(said: str) -> Result:
    """How many tests passed, failed and were skipped, and the names of those that failed."""
    last = said.strip().splitlines()[-1]
    counts = {what: int(number) for number, what in re.findall(r"(\d+) (passed|failed|skipped|error)", last)}
    names = re.findall(r"^(?:FAILED|ERROR) (\S+)", said, re.MULTILINE)
    return {what: counts.get(what, 0) for what in ("passed", "failed", "error", "skipped")} | {"names": names}


def _run(options: argparse.Namespace, seconds: float) -> Result:
    """An epoch, or the rest of it."""
    command = ["train", *_common(options), "--epochs", "1", "--out", str(options.out / "torch_cuda_run"), "--resume"]
    result = json.loads(_sparsecore(command, seconds))
    return {key: result[key] for key in ("test_accuracy", "steps", "seconds", "reallocations")}


def _study(options: argparse.Namespace, seconds: float) -> Result:
    """One trial of each arm, or the rest of them."""
    arms = [part for arm in options.arm or () for part in ("--arm", arm)]
    epochs = [] if options.epochs is None else ["--epochs", str(options.epochs)]
    folder = options.out / "torch_cuda_fig1a"
    place = ["--out", str(folder), *(["--resume"] if folder.exists() else [])]
    command = ["study", "fig1a", *_common(options), *epochs, *arms, "--trials", "1", "--jobs", "1", *place]
    result = json.loads(_sparsecore(command, seconds))
    if result["unfinished"] or result["failed"]:
        raise RuntimeError(f"unfinished: {result['unfinished']}; failed: {result['failed']}")
    return {"cells": [{key: cell[key] for key in ("arm", "sparsity", "accuracies")} for cell in result["cells"]]}


def _common(options: argparse.Namespace) -> list[str]:
    data = ["--data", options.data, *(["--data-dir", options.data_dir] if options.data_dir else [])]
    device = ["--backend", "torch", "--set", f"backend.device={options.device}"]
    return ["--model", options.model, *data, *device]


def _sparsecore(command: Sequence[str], seconds: float) -> str:
    return output_of([sys.executable, "-m", "sparsecore", *command, "--json"], seconds)


def _dense(dtype: str, options: argparse.Namespace, *, compiled: bool) -> Callable[[], None]:
    model = wide_resnet(options.device)
    return _loop(model, optimizer_of(model), dtype, options, compiled=compiled)


def _sparsified(storage: str) -> Any:
    def make(dtype: str, options: argparse.Namespace, *, compiled: bool) -> Callable[[], None]:
        model = wide_resnet(options.device)
        optimizer = optimizer_of(model)
        chosen: Any = {"sparsity": options.sparsity, "exclude": "*shortcut*", "storage": storage}
        sparsify(model, optimizer, strategy=_strategy(), **chosen)
        return _loop(model, optimizer, dtype, options, compiled=compiled)

    return make


def _loop(model: Any, optimizer: Any, dtype: str, options: argparse.Namespace, *, compiled: bool) -> Callable[[], None]:
    trained = torch.compile(model) if compiled else model
    return Loop(trained, optimizer, options.batch, _shape(options), options.images, DTYPES[dtype]).step


def _backend(dtype: str, options: argparse.Namespace, *, compiled: bool) -> Callable[[], None]:
    """As ``sparsecore train`` does it: a step, and what the engine makes of it."""
    backend = TorchBackend(device=options.device, dtype=dtype, compile=compiled)
    asked = task(backend, noise(_shape(options), options.images), options.sparsity, WideResNet())
    learner, rng = backend.learner(asked), np.random.default_rng(0)
    engine = Engine(asked.topology.layout, [_strategy()], arrays=backend.arrays)
    state = engine.start(options.sparsity, clock=Clock(steps_per_epoch=-(-options.images // options.batch)))
    learner.load_state(state.topology, learner.state())

    def step() -> None:
        nonlocal state
        learner.train(batch_of(rng.choice(options.images, options.batch, replace=False)), 0.1)
        plan = engine.plan(state)
        if plan.is_idle:
            state = plan.next_state
            return
        advance = engine.advance(state, learner.values, 0.1)
        state = advance.state
        if advance.reallocation is not None:
            learner.reallocate(advance.reallocation)

    return step


def _shape(options: argparse.Namespace) -> tuple[int, int, int]:
    return (options.side, options.side, 3)


def _strategy() -> DynamicReallocation:
    return DynamicReallocation(target=Amount("14%"), schedule=Every(steps=UPDATE_EVERY))


WAYS: Mapping[str, Any] = {
    "torch, dense": _dense,
    "sparsify, masked": _sparsified("masked"),
    "sparsify, compact": _sparsified("compact"),
    "torch backend": _backend,
}


def _measured(way: str, dtype: str, compiled: bool, options: argparse.Namespace, seconds: float) -> Result:
    """Milliseconds of a step, and images/s over an epoch."""
    end = time.monotonic() + seconds
    torch.compiler.reset()
    step = WAYS[way](dtype, options, compiled=compiled)
    _seconds(step, options.warm_up, options)
    samples = [_seconds(step, options.steps, options) / options.steps for _ in range(options.rounds)]
    steps = options.images // options.batch
    if steps * statistics.median(samples) > end - time.monotonic():
        raise Unfinished
    epoch = _seconds(step, steps, options)
    return {
        "step_ms": round(1e3 * statistics.median(samples), 3),
        "images_per_second": round(steps * options.batch / epoch),
    }


def _seconds(action: Callable[[], Any], times: int, options: argparse.Namespace) -> float:
    """How long the device takes for so many."""
    _wait(options)
    begin = time.perf_counter()
    for _ in range(times):
        action()
    _wait(options)
    return time.perf_counter() - begin


def _wait(options: argparse.Namespace) -> None:
    if options.device == "cuda":
        torch.cuda.synchronize()


def _update(options: argparse.Namespace) -> Result:
    """One update of WRN-28-2, and reading its N values and positions once."""
    update = Update.of("WRN-28-2 at sparsity 0.9", TorchArrays(options.device), lambda: _wait(options))
    actions = {"update_ms": update.once, "read_ms": update.read}
    for action in actions.values():
        _seconds(action, 3, options)
    samples = {name: [_seconds(action, 1, options) for _ in range(options.rounds)] for name, action in actions.items()}
    return {name: round(1e3 * statistics.median(taken), 3) for name, taken in samples.items()}


def _page(record: Record, stages: Sequence[Stage]) -> str:
    settings, found = record.settings, record.finished
    rehearsed = settings["device"] == "cpu"
    title = "A rehearsal on the CPU, which says nothing of a device" if rehearsed else "WRN-28-2 on a CUDA device"
    head = ("", "dtype", "compiled", "ms a step", "times dense, not compiled", "images/s over an epoch")
    rows = [_row(found, *variant) for variant in itertools.product(WAYS, DTYPES, (False, True))]
    failed = [f"- {name}: {NOT_MEASURED}, {why}" for name, why in record.failed.items()]
    missing = [
        f"- {stage.name}: {NOT_MEASURED}"
        for stage in stages
        if stage.name not in found and stage.name not in record.failed
    ]
    return f"""# {title}

Batch {settings["batch"]}, images of {settings["side"]}×{settings["side"]}×3, sparsity {settings["sparsity"]}, channels
last, without TF32. A step is the median of {settings["rounds"]} samples of {settings["steps"]} steps; an epoch has
{settings["images"]:,} images and an update every {UPDATE_EVERY} steps.

{table(head, rows)}

{_update_sentence(found.get("update"))}

## Tests
{_tests_table(found.get("tests"))}

## `sparsecore train` and `sparsecore study fig1a`
{settings["model"]} on {settings["data"]}.

{_run_sentence(found.get("epoch of sparsecore train"))}

{_study_table(found.get("trial of fig1a"))}

## What is left
{chr(10).join([*failed, *missing]) or "Nothing."}

{sentence(machine())}
"""


def _row(found: Mapping[str, Result], way: str, dtype: str, compiled: bool) -> list[str]:
    stage, dense = found.get(_step_name(way, dtype, compiled)), found.get(_step_name("torch, dense", dtype, False))
    cells = [way, dtype, "yes" if compiled else "no"]
    if stage is None:
        return [*cells, *[NOT_MEASURED] * 3]
    ratio = NOT_MEASURED if dense is None else f"{stage['step_ms'] / dense['step_ms']:.3f}"
    return [*cells, f"{stage['step_ms']:.2f}", ratio, f"{stage['images_per_second']:,}"]


def _update_sentence(update: Result | None) -> str:
    if update is None:
        return f"One DPR update by itself: {NOT_MEASURED}."
    return (
        f"One DPR update by itself takes {update['update_ms']:.2f} ms, reading the N values and positions once "
        f"{update['read_ms']:.3f} ms."
    )


def _tests_table(tests: Result | None) -> str:
    if tests is None:
        return f"Those that say CUDA in their name: {NOT_MEASURED}."
    whats = ("passed", "failed", "error", "skipped")
    rows = [[file, *(str(each[what]) for what in whats)] for file, each in tests["files"].items()]
    failed = [f"- {name} failed" for each in tests["files"].values() for name in each["names"]]
    return "\n".join([table(("", *whats), rows), *(["", *failed] if failed else [])])


def _run_sentence(run: Result | None) -> str:
    if run is None:
        return f"One epoch: {NOT_MEASURED}."
    return (
        f"One epoch of {run['steps']} steps and {run['reallocations']} updates took {run['seconds']:.1f} s, to a test "
        f"accuracy of {run['test_accuracy']:.4f}."
    )


def _study_table(study: Result | None) -> str:
    if study is None:
        return f"One trial of fig1a: {NOT_MEASURED}."
    rows = [
        [cell["arm"], str(cell["sparsity"]), *(f"{each:.4f}" for each in cell["accuracies"])] for cell in study["cells"]
    ]
    return table(("arm", "sparsity", "test accuracy"), rows)


if __name__ == "__main__":
    sys.exit(main())

"""Runs of Lightning's Trainer with sparse training, each of which returns what a test looks at."""

from pathlib import Path
from typing import Any

from lightning_examples import OPTIONS, Alternating, DensestSeen, Module, Stop, density, layers, loader, same, trainer

# isort: split
import lightning
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint, StochasticWeightAveraging, WeightAveraging
from processes import apart, sentence_of

from sparsecore_torch import sparsify
from sparsecore_torch.lightning import SparseTraining

RUNS: dict[str, dict[str, Any]] = {
    "masked": {"storage": "masked"},
    "compact": {"storage": "compact", "precision": "bf16-mixed", "accumulate_grad_batches": 2},
}
"""Storages and options of the Trainer that are trained, stopped and resumed."""


def values(module: torch.nn.Module) -> list[float]:
    return [float(number) for parameter in module.parameters() for number in parameter.detach().reshape(-1)]


def trained(name: str, folder: str, checkpoint: Path | None = None) -> tuple[Any, Any, Any]:
    """Train a module for four epochs, from the beginning or from a checkpoint."""
    options = dict(RUNS[name])
    sparse = SparseTraining(**OPTIONS, storage=options.pop("storage"), log=True)
    keep = ModelCheckpoint(folder, "{epoch}", monitor="loss", save_top_k=-1, save_last=True)
    module, runner = Module(), trainer([sparse, keep], folder, **options)
    runner.fit(module, loader(), loader(), ckpt_path=checkpoint)
    return module, runner, keep


def resumed(folder: str) -> dict[str, Any]:
    """Resume all runs after their second epoch; the weights at the end."""
    return {
        name: values(trained(name, f"{folder}/{name}-resumed", Path(folder, name, "epoch=1.ckpt"))[0]) for name in RUNS
    }


def whole(name: str, folder: str) -> dict[str, Any]:
    """Train without a stop, and look at the module and at its checkpoints."""
    module, runner, keep = trained(name, f"{folder}/{name}")
    answer: dict[str, Any] = {"values": values(module), "density": density(module.layers)}
    answer["logged"] = {key: float(value) for key, value in runner.logged_metrics.items()}
    saved = torch.load(keep.best_model_path, weights_only=True)
    answer["is plain"] = set(saved["state_dict"]) == set(Module().state_dict())
    answer["steps"] = saved["callbacks"]["SparseTraining"]["trainings"][0]["clock"]["step"]
    best = Module.load_from_checkpoint(keep.best_model_path, weights_only=True)
    answer["best density"] = density(best.layers)
    answer["tested"] = runner.test(module, loader(), ckpt_path="best", verbose=False)[0]["test_loss"]
    answer["best loss"] = float(keep.best_model_score)
    answer["has loaded the best"] = same(best, module)
    answer["validated"] = runner.validate(module, loader(), verbose=False)[0]["loss"]
    answer["predicted"] = [len(batch) for batch in runner.predict(module, loader())]
    return answer


def averaged(folder: str) -> dict[str, Any]:
    """Train with each of Lightning's averages."""
    averages = {
        "ema": lambda: EMAWeightAveraging(decay=0.9),
        "mean": WeightAveraging,
        "several tensors": lambda: WeightAveraging(multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)),
        "swa": lambda: StochasticWeightAveraging(0.02, swa_epoch_start=2, annealing_epochs=1),
    }
    answer = {}
    for name, average in averages.items():
        module, seen, keep = Module(), DensestSeen(), ModelCheckpoint(f"{folder}/{name}", save_last=True)
        runner = trainer([SparseTraining(**OPTIONS), average(), seen, keep], folder)
        runner.fit(module, loader(), loader())
        saved = Module.load_from_checkpoint(keep.last_model_path, weights_only=True)
        answer[name] = [density(module.layers), seen.density, density(saved.layers)]
        longer = trainer([SparseTraining(**OPTIONS), average()], folder, 6)
        longer.fit(module, loader(), ckpt_path=f"{folder}/{name}/last.ckpt")
        answer[name].append(density(module.layers))
    return answer


def alternating(folder: str) -> dict[str, Any]:
    """Two networks with an optimizer each, stopped and resumed; and a third optimizer of a dense tensor."""
    results = []
    for stops in (False, True):
        module = Alternating()
        runner = trainer([SparseTraining(**OPTIONS, log=True)], folder, 2 if stops else 4)
        runner.fit(module, loader())
        if stops:
            runner.save_checkpoint(f"{folder}/stopped.ckpt")
            module = Alternating()
            runner = trainer([SparseTraining(**OPTIONS, log=True)], folder)
            runner.fit(module, loader(), ckpt_path=f"{folder}/stopped.ckpt")
        results.append(module)
    answer = {"same": same(*results), "density": [density(results[0].layers), density(results[0].other)]}
    answer["updates"] = [float(runner.logged_metrics[f"sparse{number}/updates"]) for number in (0, 1)]
    return answer


def again(folder: str) -> dict[str, Any]:
    """Fit twice: after an error, and for more epochs; and with a new Trainer."""
    answer: dict[str, Any] = {}
    module, sparse = Module(), SparseTraining(**OPTIONS, distribution="erk")
    runner = trainer([sparse, Stop(7)], folder)
    try:
        runner.fit(module, loader())
    except RuntimeError:
        answer["left"] = sparse.training.step
    before = density(module.layers)
    runner = trainer([sparse], folder, 1)
    runner.fit(module, loader())
    answer["density"] = [before, density(module.layers)]
    answer["anew"] = sparse.state_dict()["trainings"][0]["clock"]["step"]
    runner.fit_loop.max_epochs = 2
    runner.fit(module, loader())
    answer["continued"] = sparse.state_dict()["trainings"][0]["clock"]["step"]
    positions = sparse.state_dict()["trainings"][0]["positions"]
    trainer([sparse], folder, max_steps=1).fit(Module(), loader())  # another module has active weights of its own
    answer["overlap"] = float(torch.isin(sparse.state_dict()["trainings"][0]["positions"], positions).float().mean())
    return answer


def refused(folder: str) -> list[str]:
    """The sentences of what cannot be used."""
    compact, ema = SparseTraining(storage="compact"), EMAWeightAveraging()
    foreign, saved = {"trainings": []}, f"{folder}/saved.ckpt"
    runner = trainer([SparseTraining(**OPTIONS)], folder, max_steps=1)
    runner.fit(Module(), loader())
    runner.save_checkpoint(saved)

    def resumed_with(**options: Any) -> None:
        sparse = SparseTraining(**{**OPTIONS, **options})
        trainer([sparse], folder).fit(Module(), loader(), ckpt_path=saved)

    attempts = (
        lambda: SparseTraining(sparcity=0.9),
        lambda: trainer([compact, ema], folder).fit(Module(), loader()),
        lambda: trainer([ema, SparseTraining()], folder).fit(Module(), loader()),
        lambda: SparseTraining().training,
        lambda: SparseTraining().load_state_dict({}),
        lambda: trainer([loaded(foreign)], folder).fit(Module(), loader()),
        lambda: resumed_with(seed=1),
        lambda: resumed_with(sparsity=0.5),
        lambda: resumed_with(strategy="dpr"),
        lambda: resumed_with(steps_per_epoch=7),
        lambda: trainer([SparseTraining(budget=300)], folder).fit(Alternating(), loader()),
        lambda: trainer([SparseTraining(strategy="rigl")], folder).fit(Alternating(), loader()),
    )
    return [sentence_of(attempt) for attempt in attempts]


def loaded(state: dict[str, Any]) -> SparseTraining:
    sparse = SparseTraining()
    sparse.load_state_dict(state)
    return sparse


def with_the_end_of_the_run(folder: str) -> dict[str, Any]:
    """A strategy that needs the number of steps gets it from the Trainer, unless it is given."""
    answer = {}
    for name, options in {"trainer": {}, "given": {"total_steps": 1000}}.items():
        module, sparse = Module(), SparseTraining(strategy="gmp", sparsity=0.8, **options)
        trainer([sparse], folder, accumulate_grad_batches=3).fit(module, loader())
        answer[name] = density(module.layers)
    return answer


def as_a_loop(folder: str) -> dict[str, bool]:
    """The Trainer, which calls ``step`` with a closure, beside a loop; RigL's updates replace steps."""
    answer = {}
    for strategy in ("rigl", "dpr"):
        chosen = {"strategy": strategy, "sparsity": 0.8, "total_steps": 48, "steps_per_epoch": 12}
        module, looped = Module(), Module()
        trainer([SparseTraining(strategy=strategy, sparsity=0.8)], folder).fit(module, loader())
        (optimizer,), (schedule,) = looped.configure_optimizers()
        training = sparsify(looped, optimizer, **chosen)
        for _ in range(4):
            for batch in loader():
                optimizer.zero_grad()
                looped.loss(batch).backward()
                optimizer.step()
            schedule.step()
        answer[strategy] = same(module, looped)
        training.squash()
    return answer


def with_fabric(folder: str) -> dict[str, Any]:
    """Fabric: begun by hand, saved and resumed; a LightningModule; and the forgotten beginning."""
    answer: dict[str, Any] = {}
    for storage in ("masked", "compact"):
        path, ends = Path(folder, f"{storage}.ckpt"), []
        for resumes in (False, True):
            fabric, sparse, module, optimizer = set_up(storage=storage)
            state = {"module": module, "optimizer": optimizer, "sparse": sparse}
            if resumes:
                fabric.load(path, state)
            for epoch in range(2 if resumes else 0, 4):
                if epoch == 2 and not resumes:
                    fabric.save(path, state)
                steps(fabric, module, optimizer)
            sparse.end()
            ends.append(module)
        answer[storage] = [same(*ends), density(ends[0].module)]
    fabric, _, module, optimizer = set_up(begins=False)
    answer["forgotten"] = sentence_of(lambda: steps(fabric, module, optimizer))
    answer["wrapped"] = {}
    for storage in ("masked", "compact"):  # without the callback
        fabric, _, module, optimizer = set_up(begins=False, callbacks=[])
        training = sparsify(module, optimizer, **OPTIONS, storage=storage)
        steps(fabric, module, optimizer)
        answer["wrapped"][storage] = [list(training.topology.layout.names), training.step]
        training.squash()
        answer["wrapped"][storage].append(density(module.module))
    return answer


def set_up(*, begins: bool = True, callbacks: Any = None, storage: str = "masked") -> tuple[Any, Any, Any, Any]:
    sparse = SparseTraining(**OPTIONS, storage=storage)
    fabric: Any = lightning.Fabric(
        accelerator="cpu", precision="bf16-mixed", callbacks=[sparse] if callbacks is None else callbacks
    )
    torch.manual_seed(0)
    model = layers()
    module, optimizer = fabric.setup(model, torch.optim.AdamW(model.parameters(), 0.02))
    if begins:
        sparse.begin(module, optimizer)
    return fabric, sparse, module, optimizer


def steps(fabric: Any, module: Any, optimizer: Any) -> None:
    for inputs, labels in loader():
        optimizer.zero_grad()
        fabric.backward(torch.nn.functional.cross_entropy(module(inputs), labels))
        optimizer.step()


def on_two_ranks(folder: str) -> dict[str, Any]:
    """Train under DistributedDataParallel, save, and resume."""
    from lightning.pytorch.plugins.environments import TorchElasticEnvironment

    ends = []
    for name, epochs, checkpoint in (("whole", 4, None), ("half", 2, None), ("resumed", 4, f"{folder}/half.ckpt")):
        sparse, module = SparseTraining(**OPTIONS), Module()
        options = {"devices": 2, "strategy": "ddp", "plugins": [TorchElasticEnvironment()]}
        runner = trainer([sparse], folder, epochs, **options)
        runner.fit(module, loader(), ckpt_path=checkpoint)
        runner.save_checkpoint(f"{folder}/{name}.ckpt")
        ends.append(values(module))
        step = sparse.state_dict()["trainings"][0]["clock"]["step"]
    compact = trainer([SparseTraining(storage="compact")], folder, **options)
    refused = sentence_of(lambda: compact.fit(Module(), loader()))
    return {"values": ends[::2], "density": density(module.layers), "step": step, "refused": refused}


def everything(folder: str) -> dict[str, Any]:
    """All that one process tries."""
    runs = (averaged, alternating, again, refused, with_the_end_of_the_run, as_a_loop, with_fabric)
    answers = {run.__name__: run(f"{folder}/{run.__name__}") for run in runs}
    return {**answers, **{name: whole(name, folder) for name in RUNS}}


def everything_and_resumed(folder: str) -> tuple[Any, Any]:
    """Each in a process of its own, so that the second knows nothing but the files of the first."""
    return apart(everything, folder), apart(resumed, folder)

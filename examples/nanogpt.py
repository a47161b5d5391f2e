"""Train a small character GPT on the text of Python's own help topics, dense and sparse, and compare the losses.

    python examples/nanogpt.py                     # 21 runs; about 40 minutes of one core
    python examples/nanogpt.py --only-table        # the table and the figure of the runs that are finished

The text is that of ``pydoc_data.topics``, which every CPython ships: some 465,000 characters, of which the last tenth
is for validation. Nothing is downloaded. A run that was stopped goes on from its last evaluation.
"""

import argparse
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from time import process_time
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import Tensor, nn

from sparsecore.data.help_topics import help_topics_text
from sparsecore.run.files import write_whole
from sparsecore.run.identity import machine
from sparsecore.strategy import Every
from sparsecore_models.gpt import CharacterGPT
from sparsecore_strategies.dpr import DynamicReallocation
from sparsecore_strategies.rigl import RigL
from sparsecore_strategies.set import SparseEvolution
from sparsecore_torch import SparseTraining, sparsify

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STRATEGIES = {
    "set": lambda schedule: SparseEvolution(schedule=schedule),
    "rigl": lambda schedule: RigL(schedule=schedule),
    "dpr": lambda schedule: DynamicReallocation(target="14%", schedule=schedule),
}
"""The compared strategies, by name, from the schedule that all of them follow."""

BASE_LEARNING_RATE = 2e-3
EVALUATIONS = 20
"""How often a run is evaluated and saved."""


@attrs.frozen
class Settings:
    """The size of the network and of a run.

    Attributes:
        layers: the number of blocks.
        features: the width of the network; a multiple of 32, the features of a head.
        characters: the length of a sequence.
        batch: the number of sequences of a step.
        steps: the number of optimizer steps of a run.
        update_every: the number of optimizer steps between two updates of the active weights.
    """

    layers: int = 4
    features: int = 128
    characters: int = 64
    batch: int = 16
    steps: int = 1000
    update_every: int = 25


@attrs.frozen
class Run:
    """One run of the comparison.

    Attributes:
        strategy: a name of :data:`STRATEGIES`, or 'dense'.
        sparsity: of the blocks' weight matrices; 0 for 'dense'.
        seed: of the initial values, the batches and the topology.
    """

    strategy: str
    sparsity: float
    seed: int

    @property
    def name(self) -> str:
        """The name of the run's files."""
        return f"{self.strategy}-{self.sparsity:g}-seed{self.seed}"


@attrs.frozen(eq=False)
class Text:
    """A text as codes of its characters.

    Attributes:
        vocabulary: its distinct characters, sorted.
        training: int64 codes of the first nine tenths.
        validation: int64 codes of the rest.
    """

    vocabulary: str
    training: Tensor
    validation: Tensor

    @classmethod
    def of(cls, text: str) -> "Text":
        """Return the codes of a text."""
        vocabulary = "".join(sorted(set(text)))
        number = {character: code for code, character in enumerate(vocabulary)}
        codes = torch.tensor([number[character] for character in text])
        cut = len(codes) * 9 // 10
        return cls(vocabulary, codes[:cut], codes[cut:])


def help_topics() -> Text:
    """Return the text of Python's help topics, in the order of their names."""
    return Text.of(help_topics_text())


def batch_of(codes: Tensor, settings: Settings, key: int, sequences: int) -> tuple[Tensor, Tensor]:
    """Return sequences from random places and, for each of their characters, the one that follows."""
    generator = torch.Generator().manual_seed(key)
    starts = torch.randint(len(codes) - settings.characters, (sequences, 1), generator=generator)
    drawn = codes[starts + torch.arange(settings.characters + 1)]
    return drawn[:, :-1], drawn[:, 1:]


def loss_of(model: nn.Module, codes: Tensor, following: Tensor) -> Tensor:
    """Return the mean cross-entropy of a character, in nats."""
    return nn.functional.cross_entropy(model(codes).flatten(0, 1), following.flatten())


@torch.no_grad()
def validation_loss(model: nn.Module, text: Text, settings: Settings) -> float:
    """Return the loss on the same 64 sequences of the validation text."""
    model.eval()
    losses = [loss_of(model, *batch_of(text.validation, settings, key, 16)).item() for key in range(4)]
    model.train()
    return fmean(losses)


def learning_rate(step: int, settings: Settings) -> float:
    """Return the learning rate of a step: a linear rise over a twentieth of the run, then a cosine to a tenth."""
    rise = max(1, settings.steps // 20)
    if step < rise:
        return BASE_LEARNING_RATE * (step + 1) / rise
    return BASE_LEARNING_RATE * (0.55 + 0.45 * math.cos(math.pi * (step - rise) / max(1, settings.steps - rise)))


def dense_flops(model: nn.Module, tokens: int) -> int:
    """Return the operations of a dense step in linear layers; the backward pass takes twice those of the forward."""
    weights = sum(one.weight.numel() for one in model.modules() if isinstance(one, nn.Linear))
    return 3 * 2 * tokens * weights


@attrs.define(eq=False)
class Trainer:
    """A run under way.

    Attributes:
        run: what is trained.
        settings: its sizes.
        text: what it is trained on.
    """

    run: Run
    settings: Settings
    text: Text
    model: CharacterGPT = attrs.field(init=False)
    optimizer: torch.optim.AdamW = attrs.field(init=False)
    training: SparseTraining | None = attrs.field(init=False, default=None)
    seconds: float = attrs.field(init=False, default=0.0)
    history: list[dict[str, float]] = attrs.field(init=False, factory=list)

    def __attrs_post_init__(self) -> None:
        torch.manual_seed(self.run.seed)
        settings = self.settings
        self.model = CharacterGPT(len(self.text.vocabulary), settings.layers, settings.features, settings.characters)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=BASE_LEARNING_RATE, weight_decay=0.01)
        if self.run.strategy in STRATEGIES:
            self.training = sparsify(
                self.model,
                self.optimizer,
                strategy=STRATEGIES[self.run.strategy](Every(steps=settings.update_every, until=0.75)),
                sparsity=self.run.sparsity,
                exclude=nn.Embedding,
                total_steps=settings.steps,
                seed=self.run.seed,
            )

    def continue_from(self, file: Path) -> None:
        """Load a checkpoint of :meth:`save`, where there is one."""
        if not file.exists():
            return
        saved = torch.load(file, weights_only=True)
        if saved["settings"] != attrs.asdict(self.settings):
            raise SystemExit(f"{file} is of a run with other settings, {saved['settings']}; choose another --out")
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        if self.training is not None:
            self.training.load_state_dict(saved["training"])
        self.history, self.seconds = saved["history"], saved["seconds"]

    def save(self, file: Path) -> None:
        """Save everything that the run needs to go on."""
        saved = {
            "settings": attrs.asdict(self.settings),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "training": None if self.training is None else self.training.state_dict(),
            "history": self.history,
            "seconds": self.seconds,
        }
        aside = file.with_suffix(".part")
        torch.save(saved, aside)
        aside.replace(file)

    def finish(self, checkpoint: Path) -> None:
        """Train to the end of the run, with an evaluation and a checkpoint from time to time."""
        self.continue_from(checkpoint)
        first = int(self.history[-1]["step"]) if self.history else 0
        settings, began, before = self.settings, process_time(), self.seconds
        recent: list[float] = []
        for step in range(first, settings.steps):
            recent.append(self.step(step))
            if (step + 1) % max(1, settings.steps // EVALUATIONS) == 0 or step + 1 == settings.steps:
                loss = validation_loss(self.model, self.text, settings)
                flops = self.flops(step + 1)
                numbers = {"step": step + 1, "flops": flops, "training loss": fmean(recent), "loss": loss}
                self.history.append(numbers)
                recent.clear()
                self.seconds = before + process_time() - began
                self.save(checkpoint)

    def flops(self, steps: int) -> float:
        """Return the operations of all steps so far, those of sparse training with its updates' dense gradients."""
        settings = self.settings
        if self.training is None:
            return float(steps * dense_flops(self.model, settings.batch * settings.characters))
        codes, _ = batch_of(self.text.training, settings, 0, settings.batch)
        return float(self.training.flops(codes).training or 0)

    def step(self, step: int) -> float:
        """Take a step and return its loss."""
        settings = self.settings
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, settings)
        key = 1_000_003 * (self.run.seed + 1) + step
        loss = loss_of(self.model, *batch_of(self.text.training, settings, key, settings.batch))
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return loss.item()


def outcome(run: Run, settings: Settings, text: Text, folder: Path) -> dict[str, Any]:
    """Return what a run found, from its file where it is finished; else train it to its end first."""
    file = folder / f"{run.name}.json"
    if file.exists():
        result: dict[str, Any] = json.loads(file.read_text("utf-8"))
        if result["settings"] != attrs.asdict(settings):
            raise SystemExit(f"{file} is of a run with other settings, {result['settings']}; choose another --out")
        return result
    checkpoint = folder / f"{run.name}.pt"
    trainer = Trainer(run, settings, text)
    trainer.finish(checkpoint)
    result = {
        **attrs.asdict(run),
        "settings": attrs.asdict(settings),
        "parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
        "updates": 0 if trainer.training is None else trainer.training.updates,
        "reached sparsity": 0.0 if trainer.training is None else trainer.training.sparsity,
        "seconds": trainer.seconds,
        "machine": machine(),
        "history": trainer.history,
    }
    write_whole(file, (json.dumps(result, indent=1) + "\n").encode())
    checkpoint.unlink(missing_ok=True)
    return result


def grouped(results: Iterable[Mapping[str, Any]]) -> dict[tuple[str, float], list[Mapping[str, Any]]]:
    """Return the results of all seeds by strategy and sparsity."""
    groups: dict[tuple[str, float], list[Mapping[str, Any]]] = {}
    for result in results:
        groups.setdefault((result["strategy"], result["sparsity"]), []).append(result)
    return groups


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """Return a Markdown table with a row for each strategy and sparsity."""
    lines = [
        "| strategy | sparsity | loss after a quarter | after a half | at the end | training FLOPs | seeds |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for (strategy, sparsity), runs in grouped(results).items():
        losses = [[one["history"][-(-len(one["history"]) * part // 4) - 1]["loss"] for one in runs] for part in (1, 2)]
        last = [one["history"][-1]["loss"] for one in runs]
        spread = f" ± {stdev(last):.3f}" if len(last) > 1 else ""
        cells = [
            f"`{strategy}`" if sparsity else strategy,
            f"{sparsity:g}",
            *(f"{fmean(each):.3f}" for each in losses),
            f"{fmean(last):.3f}{spread}",
            f"{fmean(one['history'][-1]['flops'] for one in runs):.2e}",
            str(len(runs)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def figure(results: Sequence[Mapping[str, Any]]) -> str:
    """Return an SVG: the mean validation loss of the seeds over steps, and over FLOPs on a logarithmic axis."""
    from sparsecore.report.drawing import draw_files

    colours = {"dense": "#333333", "set": "#35618f", "rigl": "#b4622d", "dpr": "#3c8a54"}
    dashes = ["-", "--", ":", "-."]
    sparsities = sorted({one["sparsity"] for one in results if one["sparsity"]})

    def paint(drawn: "Figure") -> None:
        left, right = drawn.subplots(1, 2, sharey=True)
        for (strategy, sparsity), runs in grouped(results).items():
            histories = [one["history"] for one in runs]
            loss = [fmean(numbers["loss"] for numbers in each) for each in zip(*histories, strict=True)]
            style = dashes[sparsities.index(sparsity) % len(dashes)] if sparsity else "-"
            label = f"{strategy}, {sparsity:g}" if sparsity else strategy
            steps = [numbers["step"] for numbers in histories[0]]
            flops = [fmean(numbers["flops"] for numbers in each) for each in zip(*histories, strict=True)]
            left.plot(steps, loss, linestyle=style, color=colours[strategy], linewidth=1.5, label=label)
            right.plot(flops, loss, linestyle=style, color=colours[strategy], linewidth=1.5)
        left.set_xlabel("optimizer step")
        left.set_ylabel("validation loss (nats a character)")
        right.set_xlabel("training FLOPs of linear layers")
        right.set_xscale("log")
        drawn.legend(loc="outside lower center", ncols=4, fontsize=10)

    return draw_files("nanogpt", (9.0, 4.6), paint).svg


def options_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/nanogpt"), help="folder of the runs and their results")
    parser.add_argument("--strategies", nargs="*", choices=STRATEGIES, default=list(STRATEGIES), help="besides dense")
    parser.add_argument("--sparsities", nargs="+", type=float, default=[0.8, 0.9])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1, help="threads of torch; 1 by default")
    parser.add_argument("--only-table", action="store_true", help="write table and figure of what is finished")
    for field in attrs.fields(Settings):
        name = f"--{field.name.replace('_', '-')}"
        parser.add_argument(name, type=int, default=field.default, help=f"{field.default} by default")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the runs that are not finished; write table.md and figure.svg."""
    options = options_of(arguments)
    torch.set_num_threads(options.threads)
    settings = Settings(**{field.name: getattr(options, field.name) for field in attrs.fields(Settings)})
    options.out.mkdir(parents=True, exist_ok=True)
    kinds = [("dense", 0.0), *((name, sparsity) for sparsity in options.sparsities for name in options.strategies)]
    runs = [Run(strategy, sparsity, seed) for seed in options.seeds for strategy, sparsity in kinds]
    if options.only_table:
        runs = [run for run in runs if (options.out / f"{run.name}.json").exists()]
    text, results = help_topics(), []
    for run in runs:
        results.append(outcome(run, settings, text, options.out))
        last = results[-1]["history"][-1]
        print(f"{run.name}: loss {last['loss']:.3f}, {last['flops']:.2e} FLOPs", flush=True)
    if results:
        write_whole(options.out / "table.md", f"{table(results)}\n".encode())
        write_whole(options.out / "figure.svg", figure(results).encode())
        print(table(results))


if __name__ == "__main__":
    main()

"""The figures of README and docs: density of each tensor over a run, the time of a step over sparsity, and by model.

    python benchmarks/readme_figures.py            # draw docs/figures/*.svg from the committed numbers
    python benchmarks/readme_figures.py --run RUN  # read the densities from the folder of a run first

The densities are kept in docs/figures/densities.json, the times are those of results/cpu_step.json and
results/torch_models.json.
"""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsecore.report.drawing import draw_files
from sparsecore.run.folder import RunFolder
from sparsecore.run.replay import moves, replay

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROOT = Path(__file__).parent.parent
FIGURES = ROOT / "docs/figures"
TIMES = ROOT / "benchmarks/results/cpu_step.json"
MODELS = ROOT / "benchmarks/results/torch_models.json"
DENSE = "float32, channels last"
GOALS = {
    "wrn-28-2": (0.36, 0.30),
    "wrn-28-2-dpr": (0.40, 0.30),
    "resnet-18": (0.36, 0.28),
    "resnet-18-compact": (0.36, 0.28),
    "vgg-16": (0.28, 0.20),
    "vgg-16-compact": (0.28, 0.20),
    "resnet-50": (0.50, 0.42),
    "mobilenet-v2": (0.90, 0.85),
    "vit-tiny": (0.42, 0.35),
    "vit-tiny-compact": (0.42, 0.35),
    "gpt": (0.42, 0.35),
    "gpt-compact": (0.42, 0.35),
    "mlp": (0.12, 0.07),
}
"""The time of a step relative to dense that was aimed at, at sparsity 0.9 and 0.95."""
LOW_PRECISION = ", bfloat16 activations"


def densities_of(folder: RunFolder) -> dict[str, Any]:
    """Returns the density of each tensor of a run at its start and after each update.

    Raises:
        InputError: the folder is not that of a run, or its log is damaged.
    """
    topologies = list(replay(folder))
    layout = topologies[0].layout
    densities = {
        name: [round(int(topology.counts[index]) / layout.sizes[index], 5) for topology in topologies]
        for index, name in enumerate(layout.names)
    }
    steps = [0, *(move.step for move in moves(folder, layout))]
    last_step = json.loads(folder.result.read_text("utf-8"))["steps"]
    return {
        "sparsity": round(topologies[0].sparsity, 4),
        "steps": steps,
        "last_step": last_step,
        "densities": densities,
    }


def densities_figure(numbers: dict[str, Any]) -> str:
    """Returns an SVG with a line for each tensor, and a dashed one for the whole network."""

    def paint(figure: "Figure") -> None:
        from matplotlib import colormaps

        axes = figure.add_subplot()
        tensors = numbers["densities"]
        for index, (name, densities) in enumerate(tensors.items()):
            shade = colormaps["viridis"](0.92 * index / (len(tensors) - 1))
            label = name if index in {0, len(tensors) // 2, len(tensors) - 1} else None
            percent = [100 * density for density in (*densities, densities[-1])]
            steps = [*numbers["steps"], numbers["last_step"]]
            axes.plot(steps, percent, color=shade, linewidth=1.4, drawstyle="steps-post", label=label)
        axes.axhline(100 * (1 - numbers["sparsity"]), color="#333333", linewidth=1.4, ls="--", label="whole network")
        axes.set_xlabel("optimizer step")
        axes.set_ylabel("density (% of positions)")
        axes.set_xlim(0, numbers["last_step"])
        axes.set_ylim(bottom=0)
        axes.legend(loc="upper left", fontsize=11)

    return draw_files("densities", (6.4, 4.2), paint).svg


def times_figure(report: dict[str, Any]) -> str:
    """Returns an SVG of a sparse step's time relative to a dense one's, over sparsity, on one thread."""
    sparsities, ratios = report["sparsities"], report["threads"]["1"]["ratios"][DENSE]
    lines = {
        "float32": sorted(name for name in sparsities if name.startswith("uniform") and "," not in name),
        "float32, activations in bfloat16": sorted(
            name for name in sparsities if name.startswith("uniform") and name.endswith(LOW_PRECISION)
        ),
        "float32, tensors as dense as DPR made them": [n for n in sparsities if n.startswith("dpr") and "," not in n],
    }

    def paint(figure: "Figure") -> None:
        axes = figure.add_subplot()
        for (label, names), style in zip(lines.items(), ("o-", "s--", "D"), strict=True):
            axes.plot([sparsities[name] for name in names], [ratios[name] for name in names], style, label=label)
        axes.axhline(1.0, color="#333333", linewidth=1.4, ls="--", label="dense PyTorch, float32")
        axes.set_xlabel("sparsity")
        axes.set_ylabel("time of a step, relative to dense")
        axes.set_ylim(bottom=0)
        axes.legend(loc="lower left", fontsize=11)

    return draw_files("times", (6.4, 4.2), paint).svg


def models_figure(report: dict[str, Any]) -> str:
    """Returns an SVG with a bar for each network and sparsity: the time of a step relative to dense, on one thread."""
    entries = [one for one in report["measured"].values() if (one["threads"], one["dtype"]) == (1, "float32")]
    entries.sort(key=lambda entry: entry["times_dense"]["0.9"])
    names = [_label(entry["title"]) for entry in entries]

    def paint(figure: "Figure") -> None:
        axes = figure.add_subplot()
        for offset, (sparsity, color) in zip((-0.2, 0.2), (("0.9", "#35618f"), ("0.95", "#9dbbd8")), strict=True):
            ratios = [entry["times_dense"][sparsity] for entry in entries]
            heights = [number + offset for number in range(len(entries))]
            bars = axes.barh(heights, ratios, height=0.38, color=color, label=f"sparsity {sparsity}")
            axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=9)
        axes.axvline(1.0, color="#333333", linewidth=1.4, ls="--", label="dense PyTorch")
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.15)
        axes.set_xlabel("time of a step, relative to dense")
        figure.legend(loc="outside lower center", ncols=3, fontsize=10)

    return draw_files("model-times", (6.8, 1.4 + 0.5 * len(entries)), paint).svg


def _label(title: str) -> str:
    name, _, settings = title.partition(",")
    marks = {"compact": "compact", "DPR": "as dense as by DPR"}
    return ", ".join((name, *(mark for word, mark in marks.items() if word in settings)))


def models_table(report: dict[str, Any]) -> str:
    """Returns the table of the time of a step by network, as Markdown: float32, with bfloat16 where it was measured."""
    order = list(GOALS)
    listed = [one for one in report["measured"].values() if one["model"] in GOALS]
    measured = sorted(listed, key=lambda one: (order.index(one["model"]), one["threads"]))
    by_dtype = {(one["model"], one["threads"], one["dtype"]): one for one in measured}
    lines = [
        "| network | threads | dense, ms | 0.9 | 0.95 | bfloat16 dense, ms | 0.9 | 0.95 |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for entry in measured:
        if entry["dtype"] == "float32":
            half = by_dtype.get((entry["model"], entry["threads"], "bfloat16"))
            cells = [entry["title"], str(entry["threads"]), *_cells(entry), *(_cells(half) if half else [""] * 3)]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def goals_table(report: dict[str, Any]) -> str:
    """Returns what was reached of the goals, in float32 on one thread, as Markdown."""
    lines = ["| network | 0.9 | goal | 0.95 | goal |", "| --- | ---: | ---: | ---: | ---: |"]
    for model, goals in GOALS.items():
        entry = report["measured"].get(f"{model}, 1 threads, float32")
        reached = ["not measured"] * 2 if entry is None else _cells(entry)[1:]
        pairs = [cell for one, goal in zip(reached, goals, strict=True) for cell in (one, f"{goal:.2f}")]
        title = model if entry is None else entry["title"]
        lines.append(f"| {' | '.join((title, *pairs))} |")
    return "\n".join(lines)


def _cells(entry: dict[str, Any]) -> list[str]:
    return [
        f"{entry['ms'][entry['fastest_dense']]:.0f}",
        *(f"{entry['times_dense'][sparsity]:.2f}" for sparsity in ("0.9", "0.95")),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--run", type=Path, help="folder of a run whose densities replace the committed ones")
    parser.add_argument("--out", type=Path, default=FIGURES, help="folder to write to; docs/figures by default")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.run is not None:
        numbers = json.dumps(densities_of(RunFolder(options.run)))
        (options.out / "densities.json").write_text(numbers.replace('], "', '],\n"') + "\n", "utf-8")
    source = options.out if options.run is not None else FIGURES
    densities = json.loads((source / "densities.json").read_text("utf-8"))
    (options.out / "densities.svg").write_text(densities_figure(densities), "utf-8")
    (options.out / "step-times.svg").write_text(times_figure(json.loads(TIMES.read_text("utf-8"))), "utf-8")
    (options.out / "model-times.svg").write_text(models_figure(json.loads(MODELS.read_text("utf-8"))), "utf-8")


if __name__ == "__main__":
    main()

"""The two figures of the README: density of each tensor over a run, and the time of a step over sparsity.

    python benchmarks/readme_figures.py            # draw docs/figures/*.svg from the committed numbers
    python benchmarks/readme_figures.py --run RUN  # read the densities from the folder of a run first

The densities are kept in docs/figures/densities.json, the times are those of results/cpu_step.json.
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
DENSE = "float32, channels last"
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


if __name__ == "__main__":
    main()

"""The page and the chart of cpu_step.py."""

from typing import TYPE_CHECKING, Any

import quiet_machine
from dense_baselines import PEERS
from machine import sentence
from writing import table

from sparsecore.report.drawing import draw_files

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HALVES = ", bfloat16 activations"
"""At the end of the name of what has images in bfloat16, and computes in float32 all the same."""

COLOURS = dict(zip(PEERS, ("#1f5fa8", "#7aa6d6", "#c2571a"), strict=True))


def is_uniform(name: str) -> bool:
    """Whether all sparse tensors have one density, and everything is float32."""
    return name.startswith("uniform") and not name.endswith(HALVES)


def page(report: dict[str, Any]) -> str:
    """All measurements of the report as Markdown."""
    settings = report["settings"]
    sections = [_section(threads, measured, report) for threads, measured in report["threads"].items()]
    return f"""# A training step of WRN-28-2 on the CPU backend

Forward, backward and the update (momentum after Nesterov), batch {settings["batch"]}, images of
{"×".join(map(str, report["image"]))}; medians over {settings["rounds"]} rounds, in each of which every kind of step was
taken once, in one process. A ratio is the median of the rounds' ratios. "uniform" has the same sparsity in each of the
sparse tensors; other names tell which training led to the densities of the tensors (`topologies/`). The goals are about
the faster of the two dense float32 steps. "bfloat16 activations" are those of images, as they are stored; whatever is
computed is float32.

![Ratio over sparsity](cpu_step.svg)

{chr(10).join(sections)}
{quiet_machine.caveat(report["settings"])}{sentence(report["machine"])}
"""


def _section(threads: str, measured: dict[str, Any], report: dict[str, Any]) -> str:
    goals, times, faster = report["goals"], measured["step_ms"], measured["float32"]
    head = ("topology", "sparsity", "ms", *(f"of {peer}" for peer in PEERS), "goal of float32", "goal of bfloat16")
    rows = [
        [
            name,
            f"{sparsity:.3f}",
            f"{times[name]:.1f}",
            *(f"{measured['ratios'][peer][name]:.3f}" for peer in PEERS),
            *(_goal(goals[which].get(name)) for which in ("of_float32", "of_bfloat16")),
        ]
        for name, sparsity in report["sparsities"].items()
    ]
    dense = [[peer, f"{times[peer]:.1f}"] for peer in PEERS]
    return f"""## {threads} thread{"s" if int(threads) > 1 else ""}

{table(("dense step on torch", "ms"), dense)}

{table(head, rows)}

The faster float32 is {faster}; bfloat16 takes {measured["bfloat16_of_float32"]:.3f} of it.
{_break_even(measured, goals)}
"""


def _goal(most: float | None) -> str:
    return "" if most is None else f"{most:.2f}"


def _break_even(measured: dict[str, Any], goals: dict[str, Any]) -> str:
    density = measured["break_even_density"]
    reached = (
        "Up to the densest measured, a sparse step is the faster one"
        if density is None
        else (f"A sparse step takes as long as a dense one at density {density:.3f}")
    )
    return f"{reached} (the goal is {goals['break_even']} or above)."


def chart(report: dict[str, Any]) -> str:
    """Ratio over sparsity as an SVG document: a panel for each number of threads, a line for each peer."""

    def paint(figure: "Figure") -> None:
        panels = figure.subplots(1, len(report["threads"]), squeeze=False, sharey=True)[0]
        for axes, (threads, measured) in zip(panels, report["threads"].items(), strict=True):
            axes.set_title(f"{threads} thread{'s' if int(threads) > 1 else ''}", loc="left")
            _panel(axes, measured, report)
        panels[0].set_ylabel("CPU backend, of a dense step")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower left", ncols=2, fontsize=11)

    return draw_files("cpu-step", (6.0 * len(report["threads"]), 5.4), paint).svg


def _panel(axes: "Axes", measured: dict[str, Any], report: dict[str, Any]) -> None:
    sparsities, goals = report["sparsities"], report["goals"]["of_float32"]
    uniform = sorted(filter(is_uniform, sparsities), key=sparsities.__getitem__)
    halves = [f"{name}{HALVES}" for name in uniform if f"{name}{HALVES}" in sparsities]
    others = [name for name in sparsities if name not in uniform and not name.endswith(HALVES)]
    for peer, colour in COLOURS.items():
        ratios = measured["ratios"][peer]
        axes.plot([sparsities[n] for n in uniform], [ratios[n] for n in uniform], "o-", color=colour, label=peer)
        axes.plot([sparsities[n] for n in halves], [ratios[n] for n in halves], "s--", color=colour, mfc="white")
        axes.plot([sparsities[n] for n in others], [ratios[n] for n in others], "D", color=colour, mfc="white")
    for shapes, names in (("v", uniform), ("d", others)):
        wanted = [name for name in names if name in goals]
        label = (
            "goal of float32 (dashed: bfloat16 activations)" if shapes == "v" else "likewise, densities of a run (◇)"
        )
        axes.plot([sparsities[n] for n in wanted], [goals[n] for n in wanted], shapes, color="#333333", label=label)
    axes.axhline(1.0, color="#888888", linewidth=1)
    axes.set_xlabel("sparsity")
    axes.set_ylim(bottom=0)

"""The figures and numbers of the README and of the page about training on a CPU are those that were measured."""

import importlib
import json
import re
from importlib.metadata import version

import pytest
from pages import ROOT, read

FIGURES = ROOT / "docs/figures"


@pytest.fixture(scope="module")
def drawing():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        return importlib.import_module("readme_figures")


def test_the_figures_are_drawn_from_the_committed_numbers(drawing):
    pinned = re.search(r"^matplotlib==(.*)$", read("constraints.txt"), re.MULTILINE)
    if pinned is None or version("matplotlib") != pinned[1]:
        pytest.skip("another matplotlib draws other paths")
    densities, times = json.loads(read("docs/figures/densities.json")), results("cpu_step")
    assert (FIGURES / "densities.svg").read_text("utf-8") == drawing.densities_figure(densities)
    assert (FIGURES / "step-times.svg").read_text("utf-8") == drawing.times_figure(times)
    assert (FIGURES / "model-times.svg").read_text("utf-8") == drawing.models_figure(results("torch_models"))


def results(name):
    return json.loads(read(f"benchmarks/results/{name}.json"))


def test_step_times_in_the_readme_are_the_measured_ones():
    times = results("cpu_step")["threads"]["1"]["step_ms"]
    sparse = " / ".join(f"{times[f'uniform {sparsity}']:.0f}" for sparsity in (0.9, 0.95, 0.98))
    assert f"| {sparse} ms | {times['float32, channels last']:.0f} ms, dense PyTorch" in read("README.md")
    times = results("torch_step")["step_ms"]
    masks, compact, dense = (times[name] for name in ("sparsify, masked", "sparsify, compact", "dense"))
    assert f"| {masks:.0f} / {compact:.0f} ms | {dense:.0f} ms, dense PyTorch" in read("README.md")


def test_other_numbers_in_the_readme_are_the_measured_ones():
    page = read("README.md")
    image = results("cpu_inference")["times"]["threads 1, batch 1"]
    ours, torch, onnx = (image[name]["ms"] for name in ("sparsity 0.9", "torch, channels last", "ONNX Runtime"))
    assert f"| {ours:.2f} ms | {torch:.1f} ms PyTorch, {onnx:.1f} ms ONNX Runtime" in page
    updates = {(update["case"], update["backend"]): update for update in results("reallocation")["updates"]}
    small, large = (updates[case, "NumPy"]["ms"] for case in ("WRN-28-2 at sparsity 0.9", "10⁶ of 10⁹"))
    assert f"takes {small:.1f} ms, one of 10⁶ among 10⁹ takes {large:.0f} ms" in " ".join(page.split())
    overhead = results("sparsify_overhead")["cases"]["Llama of 3.4 M, 64 tokens, AdamW"]["overhead"]
    assert f"{overhead:.0%}".replace("%", " %") in page


def test_step_times_by_model_are_the_measured_ones(drawing):
    assert drawing.models_table(results("torch_models")) in read("docs/train-faster-on-cpu.md")
    assert drawing.goals_table(results("torch_models")) in read("docs/cpu-kernels.md")


def test_step_times_over_all_sparsities_are_the_measured_ones():
    page = " ".join(read("docs/cpu-kernels.md").split())
    gpt, mlp = (results("torch_models")["measured"][f"{name}, 1 threads, float32"] for name in ("gpt", "mlp"))
    zero, half, most, nearly = (f"{gpt['times_dense'][sparsity]:.2f}" for sparsity in ("0.0", "0.5", "0.8", "0.99"))
    assert f"{zero} of dense at sparsity 0, {half} at 0.5, {most} at 0.8 and {nearly} at 0.99" in page
    zero, half, most, nearly = (f"{mlp['times_dense'][sparsity]:.2f}" for sparsity in ("0.0", "0.5", "0.8", "0.99"))
    assert f"{nearly} at sparsity 0.99, {most} at 0.8, {half} at 0.5, and {zero} at sparsity 0" in page


def test_numbers_on_the_pages_for_newcomers_are_the_measured_ones():
    page, ideas = (" ".join(read(f"docs/{name}.md").split()) for name in ("faq", "explanations/kernels"))
    models = results("torch_models")["measured"]
    wrn, resnet, gpt, mlp = (
        models[f"{model}, 1 threads, float32"]["times_dense"]["0.9"]
        for model in ("wrn-28-2", "resnet-50", "gpt", "mlp")
    )
    assert f"{wrn:.2f}" == f"{resnet:.2f}"
    assert f"took {wrn:.2f} of a dense one for a WRN-28-2 and a ResNet-50, {gpt:.2f} for a small GPT" in page
    assert f"and {mlp:.2f} for a perceptron" in page
    ledgers = [results("memory")["bytes"]["wrn-28-2"][name]["ledger"] for name in ("sparsify, compact", "torch, dense")]
    parts = [
        [ledger[part]["measured"] for part in ("values", "gradients", "optimizer_state", "indices")]
        for ledger in ledgers
    ]
    compact, dense = (sum(part[:3]) for part in parts)
    assert f"{compact / dense:.2f} of dense at sparsity 0.9, and {sum(parts[0]) / dense:.2f} with the positions" in page
    ratios = results("cpu_step")["threads"]["1"]["ratios"]["float32, channels last"]
    assert ratios["uniform 0.3"] == pytest.approx(1, abs=0.03)
    assert [round(1 / ratios[f"uniform {sparsity}"]) for sparsity in (0.9, 0.98)] == [3, 4]
    assert "as long as a dense one at sparsity 0.3, a third of it at 0.9, and a quarter at 0.98" in ideas
    steps = [network["times_dense"] for network in results("sparselab_step")["networks"]]
    ours, theirs = (" and ".join(f"{step[name]:.2f}" for step in steps) for name in ("sparsecore", "SparseLab"))
    assert f"took {ours} of a dense one, SparseLab's {theirs}" in " ".join(read("docs/coming-from.md").split())

"""The scripts in ``examples/``, at tiny sizes: what they write, and that a run that was stopped goes on."""

import importlib
import json
import re
from importlib.metadata import version
from pathlib import Path

import pytest
from pages import read

pytest.importorskip("torch")
pytest.importorskip("matplotlib")

EXAMPLES = Path(__file__).parent.parent / "examples"
SIZES = ("--layers", "1", "--features", "32", "--characters", "8", "--batch", "2", "--update-every", "2")
ARGUMENTS = (*SIZES, "--steps", "20", "--seeds", "0", "1", "--sparsities", "0.9", "--strategies", "rigl", "dpr")


@pytest.fixture(scope="module")
def nanogpt():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        return importlib.import_module("nanogpt")


@pytest.fixture(scope="module")
def folder(nanogpt, tmp_path_factory):
    folder = tmp_path_factory.mktemp("nanogpt")
    nanogpt.main([*ARGUMENTS, "--out", str(folder)])
    return folder


def results(folder):
    return {file.stem: json.loads(file.read_text()) for file in folder.glob("*.json")}


ELSEWHERE = {"lightning_mnist", "trainer_bert", "vit_cifar"}
"""Examples that import libraries which can be imported only in processes of their own (test_trainer_pages.py)."""


@pytest.mark.parametrize("script", sorted({file.stem for file in EXAMPLES.glob("*.py")} - ELSEWHERE))
def test_every_example_explains_its_options(script, capsys, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(script).main(["--help"])
    assert ended.value.code == 0
    assert "--out" in capsys.readouterr().out


def test_the_gpt_is_trained_dense_and_with_each_strategy_and_seed(folder):
    names = {f"{kind}-seed{seed}" for kind in ("dense-0", "rigl-0.9", "dpr-0.9") for seed in (0, 1)}
    assert {file.name for file in folder.iterdir()} == {*(f"{name}.json" for name in names), "table.md", "figure.svg"}
    for name, result in results(folder).items():
        assert [numbers["step"] for numbers in result["history"]] == list(range(1, 21))
        assert result["history"][-1]["loss"] < result["history"][0]["loss"] < 5
        assert result["updates"] == (0 if name.startswith("dense") else 7)
    assert len((folder / "table.md").read_text().splitlines()) == 2 + 3
    assert "<svg" in (folder / "figure.svg").read_text()


def test_the_gpts_operations_are_those_of_its_layers_worked_out_by_hand(folder):
    dense = 2 * 2 * 8 * (32 * 96 + 32 * 32 + 2 * 32 * 128 + 32 * 103)
    found = {name: result["history"][-1]["flops"] for name, result in results(folder).items()}
    assert found["dense-0-seed0"] == 20 * 3 * dense
    weights = round(0.1 * (32 * 96 + 32 * 32 + 2 * 32 * 128))
    sparse = 2 * 2 * 8 * (weights + 32 * 103)
    assert found["dpr-0.9-seed0"] == pytest.approx(20 * 3 * sparse, rel=1e-3)
    assert found["rigl-0.9-seed0"] == pytest.approx(20 * 2 * sparse + 13 * sparse + 7 * dense, rel=1e-3)


def test_a_gpt_that_was_stopped_ends_as_one_that_was_not(nanogpt, folder, tmp_path, monkeypatch):
    step = nanogpt.Trainer.step

    def stopping(self, number):
        if number == 11:
            raise KeyboardInterrupt
        return step(self, number)

    arguments = [*ARGUMENTS, "--seeds", "1", "--out", str(tmp_path)]
    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(nanogpt.Trainer, "step", stopping)
            with pytest.raises(KeyboardInterrupt):
                nanogpt.main(arguments)
    nanogpt.main(arguments)
    for name, result in results(tmp_path).items():
        assert result["history"] == results(folder)[name]["history"]


def test_a_folder_with_runs_of_other_settings_is_refused(nanogpt, folder):
    with pytest.raises(SystemExit, match="other settings"):
        nanogpt.main([*ARGUMENTS, "--steps", "5", "--out", str(folder)])


def test_a_pruned_network_is_trained_on_in_both_ways_and_finished_parts_are_kept(tmp_path, capsys, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    finetune = importlib.import_module("finetune_pruned")
    sizes = ("--images", "96", "--epochs", "2", "--more-epochs", "1", "--batch", "32", "--seeds", "0")
    arguments = [*sizes, "--network", "plain", "--sparsity", "0.5", "--out", str(tmp_path)]
    finetune.main(arguments)
    found = json.loads((tmp_path / "seed0.json").read_text())
    assert all(0 <= found[stage] <= 100 for stage in ("dense", "pruned", "static", "dpr"))
    assert len((tmp_path / "table.md").read_text().splitlines()) == 2 + 4
    monkeypatch.setattr(finetune, "train", None)
    finetune.main(arguments)
    del found["dpr"]
    (tmp_path / "seed0.json").write_text(json.dumps(found))
    with pytest.raises(TypeError, match="not callable"):
        finetune.main(arguments)
    with pytest.raises(SystemExit, match="other settings"):
        finetune.main([*arguments, "--sparsity", "0.6"])
    capsys.readouterr()


def test_the_page_of_recipes_has_the_numbers_and_the_figure_of_its_runs(nanogpt):
    runs = json.loads(read("docs/figures/nanogpt.json"))
    assert len(runs) == 21
    assert nanogpt.table(runs) in read("docs/recipes.md")
    pinned = re.search(r"^matplotlib==(.*)$", read("constraints.txt"), re.MULTILINE)
    if pinned is not None and version("matplotlib") == pinned[1]:  # another one draws other paths
        assert nanogpt.figure(runs) == read("docs/figures/nanogpt.svg")

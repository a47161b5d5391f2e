"""Plugins come in by name, by module and by file; a broken one breaks only itself; listing imports none."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from command_line import SMALL, said, small_images, sparsecore, train

from sparsecore.errors import PluginError
from sparsecore.plugins.discovery import installed, load

pytestmark = pytest.mark.usefixtures("quick_runs")

MINE = '''
"""A strategy of somebody else's."""

import attrs

from sparsecore import Every, hookimpl


@attrs.frozen(eq=False)
class EveryThird:
    """Prune every third weight of the network."""

    offset: int = 0
    schedule: Every = Every(steps=4)

    @hookimpl
    def update_due(self, clock):
        return self.schedule(clock)

    @hookimpl
    def prune(self, topology):
        return topology.arrays.arange(topology.size, "int64") % 3 != self.offset
'''


THIRD = "[sparsecore.strategies]\nthird = their_module:EveryThird\n"
TAKEN = """
    @hookimpl
    def grow(self, occupied, counts):
        return occupied.positions[: counts.sum()]
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_images(tmp_path_factory.mktemp("data") / "small.npz")


def install(folder: Path, name: str, modules: dict[str, str], entry_points: str) -> None:
    """What pip would leave in site-packages for a package of these modules."""
    for module, source in modules.items():
        (folder / f"{module}.py").write_text(source)
    info = folder / f"{name}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(textwrap.dedent(entry_points))


def listed(folder: Path) -> dict[str, dict[str, str]]:
    done = sparsecore("plugins", "--json", cwd=folder)  # where modules and metadata are found, too
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return {f"{entry['kind']} {entry['name']}": entry for entry in json.loads(done.stdout)}


def test_built_in_plugins_are_found_by_entry_points() -> None:
    strategies = [entry.name for entry in installed("strategy")]
    assert strategies == sorted(strategies)
    assert {"deepr", "density-schedule", "dpr", "erk-start"} <= set(strategies)
    assert {entry.name for entry in installed("dataset")} >= {"digits", "mnist", "fashion-mnist", "cifar10", "cifar100"}


@pytest.mark.parametrize("kind", ["strategy", "backend", "model", "dataset"])
def test_every_built_in_plugin_loads(kind: str) -> None:
    for entry in installed(kind):
        assert load(kind, entry.name)


@pytest.mark.integration
def test_listing_imports_no_plugin_and_no_heavy_library() -> None:
    code = """
        import sys
        from click.testing import CliRunner
        from sparsecore.cli.command_line import commands
        result = CliRunner().invoke(commands, ["plugins", "--json"])
        assert result.exit_code == 0, result.output
        heavy = {"torch", "sklearn", "scipy", "matplotlib", "pooch", "jax"}
        plugins = {name for name in sys.modules if name.startswith("sparsecore_")}
        print(sorted((heavy & set(sys.modules)) | plugins))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_list_has_kind_name_source_and_one_line_per_plugin(tmp_path: Path) -> None:
    install(
        tmp_path,
        "their-strategies",
        {"their_module": MINE},
        "[sparsecore.strategies]\nthird = their_module:EveryThird\n",
    )
    entry = listed(tmp_path)["strategy third"]
    assert entry["source"] == "their-strategies 1.2: their_module:EveryThird"
    assert entry["summary"] == "Prune every third weight of the network."
    assert entry["error"] is None


@pytest.mark.parametrize(
    ("source", "value", "words"),
    [
        (None, "their_module:EveryThird", "No module named 'their_module'"),
        ("def broken(:\n", "their_module:EveryThird", "SyntaxError"),
        ("import no_such_library\n" + MINE, "their_module:EveryThird", "No module named 'no_such_library'"),
        (MINE, "their_module:EveryFourth", "has no 'EveryFourth'"),
        (MINE, "their_module", "not of the form package.module:Object"),
        ("raise RuntimeError('not today')\n", "their_module:EveryThird", "RuntimeError('not today')"),
    ],
)
def test_a_broken_plugin_is_listed_with_its_error_and_breaks_only_itself(
    tmp_path: Path, source: str | None, value: str, words: str
) -> None:
    modules = {} if source is None else {"their_module": source}
    install(tmp_path, "their-strategies", modules, f"[sparsecore.strategies]\nthird = {value}\n")
    found = listed(tmp_path)
    assert words in found["strategy third"]["error"]
    assert found["strategy dpr"]["error"] is None
    table = sparsecore("plugins", cwd=tmp_path)
    assert table.returncode == 0
    assert words in " ".join(table.stdout.split())  # a sentence may take several lines
    refused = sparsecore("train", "--strategy", "third", cwd=tmp_path)
    assert "'third'" in said(refused)


@pytest.mark.integration
def test_an_installed_third_party_strategy_is_selected_by_name(images: Path, tmp_path: Path) -> None:
    install(
        tmp_path,
        "their-strategies",
        {"their_module": MINE},
        "[sparsecore.strategies]\nthird = their_module:EveryThird\n",
    )
    arguments = (*SMALL, "--data-dir", images, "--strategy", "third", "--set", "strategy.third.offset=1")
    done = sparsecore("train", *arguments, "--out", tmp_path / "run", "--json", PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["reallocations"] == 5
    moved = [json.loads(line)["moved"] for line in (tmp_path / "run/reallocations.jsonl").read_text().splitlines()]
    assert moved == [20] * 5  # a third of the 60 weights


def test_a_strategy_in_a_file_needs_no_installation(images: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    arguments = (*SMALL, "--data-dir", images, "--strategy", "mine.py:EveryThird", "--set", "strategy.offset=2")
    result = train(*arguments, "--out", "run", cwd=tmp_path)
    assert result["reallocations"] == 5
    again = train("--resume", "--out", tmp_path / "run")  # from another folder
    assert again["topology_sha256"] == result["topology_sha256"]


def test_a_strategy_in_a_module_is_selected_by_its_path(images: Path, tmp_path: Path) -> None:
    (tmp_path / "their_module.py").write_text(MINE)
    result = train(*SMALL, "--data-dir", images, "--strategy", "their_module:EveryThird", "--out", "run", cwd=tmp_path)
    assert result["reallocations"] == 5


def test_a_misspelt_option_of_a_third_party_strategy_names_the_known_ones(images: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    arguments = (*SMALL, "--data-dir", images, "--strategy", "mine.py:EveryThird", "--set", "strategy.ofset=2")
    assert "no key named 'ofset'; known: offset, schedule" in said(sparsecore("train", *arguments, cwd=tmp_path))


def test_a_misspelt_hook_is_refused_with_the_closest_match(images: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE.replace("def prune", "def prunes"))
    arguments = (*SMALL, "--data-dir", images, "--strategy", "mine.py:EveryThird")
    sentence = said(sparsecore("train", *arguments, cwd=tmp_path))
    assert "'prunes'" in sentence
    assert "did you mean 'prune'" in sentence


def test_a_strategy_that_breaks_a_promise_is_stopped_by_name(images: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        MINE
        + "\n    @hookimpl\n    def grow(self, occupied, counts):\n        return occupied.positions[: counts.sum()]\n"
    )
    done = sparsecore(
        "train",
        *SMALL,
        "--data-dir",
        images,
        "--strategy",
        "mine.py:EveryThird",
        "--out",
        tmp_path / "run",
        cwd=tmp_path,
    )
    assert done.returncode == 1
    assert "mine.py:EveryThird" in done.stderr
    assert "'grow'" in done.stderr
    assert "Traceback" not in done.stderr


def test_two_plugins_of_one_name_are_refused_with_both_objects(tmp_path: Path) -> None:
    install(tmp_path, "theirs", {"their_module": MINE}, "[sparsecore.strategies]\ndpr = their_module:EveryThird\n")
    done = sparsecore("train", "--strategy", "dpr", cwd=tmp_path)
    sentence = said(done)
    assert "their_module:EveryThird" in sentence
    assert "sparsecore_strategies.dpr:DynamicReallocation" in sentence


def test_a_model_of_other_sizes_can_be_selected_by_name() -> None:
    model = load("model", "wrn-16-4")
    assert (model.depth, model.width) == (16, 4)
    assert load("model", "lenet-20-10").hidden == (20, 10)


def test_an_object_of_another_kind_is_refused() -> None:
    with pytest.raises(
        PluginError, match=r"'sparsecore_strategies\.dpr:DynamicReallocation' is no backend: it has no arrays, learner"
    ):
        load("backend", "sparsecore_strategies.dpr:DynamicReallocation")


def test_a_missing_object_is_refused_with_the_available_ones() -> None:
    with pytest.raises(
        PluginError, match=r"no object named 'Dpr'; sparsecore_strategies\.dpr has: DynamicReallocation, Threshold"
    ):
        load("strategy", "sparsecore_strategies.dpr:Dpr")


LOOSE = """
import attrs
from sparsecore import Every, hookimpl

@attrs.frozen(eq=False)
class Loose:
    strength: float = 1
    schedule: Every = Every(epochs=1, until=1)

    @hookimpl
    def update_due(self, clock):
        return self.schedule(clock)

@attrs.frozen(eq=False)
class Doubling:
    strength: float = attrs.field(default=1.0, converter=lambda given: 2 * given)

    @hookimpl
    def update_due(self):
        return False

@attrs.frozen(eq=False)
class Named(Doubling):
    name: str = "mine"

class Exits:
    @hookimpl
    def update_due(self):
        raise SystemExit(0)
"""


def test_a_default_of_another_type_than_its_annotation_resumes(images: Path, tmp_path: Path) -> None:
    (tmp_path / "loose.py").write_text(LOOSE)
    first = train(*SMALL, "--data-dir", images, "--strategy", "loose.py:Loose", "--out", "run", cwd=tmp_path)
    again = train("--resume", "--out", "run", cwd=tmp_path)
    assert again["topology_sha256"] == first["topology_sha256"]


@pytest.mark.parametrize(
    ("strategy", "sentence"),
    [("Doubling", "read back from TOML as {'strength': 4.0}; they were {'strength': 2.0}"), ("Named", "rename it")],
)
def test_options_that_cannot_be_stored_in_a_file_are_refused(
    images: Path, tmp_path: Path, strategy: str, sentence: str
) -> None:
    (tmp_path / "loose.py").write_text(LOOSE)
    arguments = (*SMALL, "--data-dir", images, "--strategy", f"loose.py:{strategy}")
    assert sentence in said(sparsecore("train", *arguments, cwd=tmp_path))


def test_a_plugin_that_exits_does_not_end_the_run_silently(images: Path, tmp_path: Path) -> None:
    (tmp_path / "loose.py").write_text(LOOSE)
    arguments = (*SMALL, "--data-dir", images, "--strategy", "loose.py:Exits")
    assert "'update_due'" in said(sparsecore("train", *arguments, cwd=tmp_path))


def test_unreadable_metadata_hides_no_other_plugin(tmp_path: Path) -> None:
    install(tmp_path, "theirs", {"their_module": MINE}, THIRD)
    (tmp_path / "theirs-1.2.dist-info/entry_points.txt").write_bytes(b"[sparsecore.strategies]\n\xff\xfe = x\n")
    assert listed(tmp_path)["strategy dpr"]["error"] is None

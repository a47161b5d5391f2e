"""Optional packages: the core does without them, and whatever needs one that is missing says in a sentence which."""

import re
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
from command_line import SMALL, small_images
from in_process import no_waiting_for_the_disk, run_in_process

from sparsecore.cli import main
from sparsecore.extras import MissingPackageError, require

ROOT = Path(__file__).parent.parent
IMPORTED = {"scikit-learn": "sklearn", "tomli-w": "tomli_w"}


def _declared() -> dict[str, list[str]]:
    """The packages of each extra, and of the core under the name 'core', as they are imported."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lists = {"core": project["dependencies"], **project["optional-dependencies"]}
    names = {extra: [re.match(r"[\w.-]+", entry)[0] for entry in entries] for extra, entries in lists.items()}  # type: ignore[index]
    return {
        extra: [IMPORTED.get(name, name) for name in found if name != "sparsecore-engine"]
        for extra, found in names.items()
    }


DECLARED = _declared()
OPTIONAL = sorted({package for extra, packages in DECLARED.items() if extra != "core" for package in packages})

REFUSE = f"""
import sys
from importlib.abc import MetaPathFinder

class Refused(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in {OPTIONAL!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Refused())
"""


def _without_optional_packages(script: str) -> "subprocess.CompletedProcess[str]":
    """Run the script in a process that has the core's packages only."""
    return subprocess.run([sys.executable, "-c", REFUSE + script], capture_output=True, text=True, check=False)


def _absent(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    for package in packages:
        monkeypatch.setitem(sys.modules, package, None)  # as the import system notes a module that is not to be found


def test_the_core_needs_numpy_attrs_and_pluggy_alone() -> None:
    assert DECLARED["core"] == ["numpy", "attrs", "pluggy"]


@pytest.mark.integration
def test_the_core_alone_imports_lists_plugins_and_reallocates_by_a_strategy_of_ones_own() -> None:
    done = _without_optional_packages("""
import numpy as np
from sparsecore import Engine, Every, Layout, hookimpl
from sparsecore.plugins.listing import listings
from sparsecore_numpy import NumpyArrays
from sparsecore_strategies.set import SparseEvolution

class Mine:
    @hookimpl
    def prune(self, topology, random):
        return np.arange(topology.size) % 2 == 0

engine = Engine(Layout.of({"a": (8, 4), "b": (10, 32)}), [Mine()], arrays=NumpyArrays(), seed=1)
state = engine.start(0.9)
after, _ = engine.update(state, np.ones(state.topology.size))
print(after.topology.size == state.topology.size, (after.topology.positions != state.topology.positions).any())
print("set" in {listing.name for listing in listings()})
""")
    assert done.stdout.split() == ["True", "True", "True"], done.stderr


@pytest.mark.integration
def test_errors_name_the_missing_package_and_the_extra_that_installs_it() -> None:
    done = _without_optional_packages("""
from importlib import import_module
from pathlib import Path
from sparsecore.data.digits import Digits
from sparsecore.data.files import Origin
from sparsecore.errors import InputError
from sparsecore_numpy import workspace
from sparsecore.plugins.discovery import load

for need in (
    lambda: import_module("sparsecore.experiment.experiment"),
    lambda: import_module("sparsecore.testing"),
    lambda: import_module("sparsecore_torch"),
    lambda: load("backend", "torch"),
    lambda: load("backend", "jax"),
    lambda: Digits().load(None),
    lambda: Origin("x", "https://localhost/", {"a": "md5:0"}).fetch("a"),
    lambda: workspace._blas(),
):
    try:
        need()
    except InputError as error:
        print(isinstance(error, ModuleNotFoundError), error)
""")
    said = done.stdout.splitlines()
    wanted = [
        ("cattrs", "cli"),
        ("hypothesis", "testing"),
        ("torch", "torch"),
        ("torch", "torch"),
        ("jax", "jax"),
        ("scikit-learn", "data"),
        ("pooch", "data"),
        ("threadpoolctl", "cli"),
    ]
    assert len(said) == len(wanted), done.stderr
    for sentence, (package, extra) in zip(said, wanted, strict=True):
        assert sentence.startswith("True")
        assert f" {package}," in sentence
        assert f"sparsecore-engine[{extra}]" in sentence


@pytest.mark.integration
def test_the_script_prints_one_sentence_about_missing_packages() -> None:
    done = _without_optional_packages("sys.argv = ['sparsecore', 'train']\nfrom sparsecore.cli import main\nmain()")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "click" in done.stderr
    assert "sparsecore-engine[cli]" in done.stderr


def test_an_interrupt_while_the_command_line_is_imported_ends_it_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sparsecore.cli.require", interrupt)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130


@pytest.mark.parametrize("package", DECLARED["cli"])
def test_the_command_line_starts_nothing_when_one_of_its_packages_is_missing(
    package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _absent(monkeypatch, package)
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 2
    assert package.replace("_", "-") in capsys.readouterr().err


@pytest.mark.integration
@pytest.mark.parametrize("package", DECLARED["report"])
def test_a_study_starts_nothing_when_packages_of_its_report_are_missing(
    package: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _absent(monkeypatch, package)
    sentence = run_in_process("study", "fig1a", "--out", tmp_path / "study").sentence
    assert package in sentence
    assert "sparsecore-engine[report]" in sentence
    assert not list(tmp_path.iterdir())


def test_a_run_without_plotting_packages_has_its_report(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    images, run = small_images(tmp_path / "images.npz"), tmp_path / "run"
    with no_waiting_for_the_disk(), monkeypatch.context() as patch:
        for package in DECLARED["report"]:
            _absent(patch, package)
        ended = run_in_process("train", *SMALL, "--epochs", "1", "--data-dir", images, "--out", run)
    assert ended.status == 0, ended.stderr
    assert "matplotlib" not in ended.stderr
    assert "<svg" in (run / "report.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("package", "arguments"),
    [
        ("hypothesis", ("check", "dpr")),
        ("ray", ("study", "fig1a", "--on", "ray")),
        ("submitit", ("study", "fig1a", "--on", "slurm")),
        ("sklearn", ("train", "--data", "digits")),
    ],
)
def test_a_command_whose_package_is_missing_prints_one_error_sentence_and_leaves_no_files(
    package: str, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    images = small_images(tmp_path / "images.npz")
    folder = ("--out", tmp_path / "x")
    options = {"check": (), "study": folder, "digits": folder}
    given = next((options[one] for one in arguments if one in options), ("--data-dir", images, *folder))
    _absent(monkeypatch, package)
    ended = run_in_process(*arguments, *given)
    assert {"sklearn": "scikit-learn"}.get(package, package) in ended.sentence
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("library", ["lightning", "transformers"])
def test_the_callback_for_a_library_that_is_missing_names_its_extra(
    library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    _absent(monkeypatch, library)
    monkeypatch.delitem(sys.modules, f"sparsecore_torch.{library}", raising=False)
    with pytest.raises(MissingPackageError, match=rf"needs {library}.*sparsecore-engine\[{library}\]"):
        import_module(f"sparsecore_torch.{library}")


def test_a_folder_with_the_name_of_a_package_is_not_that_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "nosuchpackage").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingPackageError, match=r"a kite needs nosuchpackage.*\[fly\]"):
        require("nosuchpackage", extra="fly", purpose="a kite")
    (tmp_path / "nosuchpackage" / "__init__.py").touch()
    sys.path_importer_cache.clear()
    require("nosuchpackage", extra="fly", purpose="a kite")


WITH_OTHERS = {"lightning", "mlflow", "tensorboard", "trackio", "transformers", "vision", "wandb"}
"""Extras for those who use another library anyway."""


def test_all_has_every_extra_for_users_but_those_for_users_of_other_libraries() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    lists = re.findall(r"\[([\w,-]+)\]", " ".join(extras["all"] + extras["all-without-cpu"]))
    named = {extra for extras in lists for extra in extras.split(",")}
    assert named == set(extras) - {"all", "docs", "test"} - WITH_OTHERS

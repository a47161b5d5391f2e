"""What is released together has one version, and pip installs the CPU backend only where there are wheels of it."""

import re
import tomllib
from itertools import chain
from pathlib import Path
from typing import Any

import packages
import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement

import sparsecore

ROOT = Path(__file__).parent.parent


def project(folder: str = ".") -> dict[str, Any]:
    return tomllib.loads((ROOT / folder / "pyproject.toml").read_text("utf-8"))["project"]


def installed_with(extra: str, **machine: str) -> set[str]:
    """The distributions that pip installs with an extra of the engine, on a machine given by its markers."""
    known: dict[str, list[str]] = project()["optional-dependencies"]
    environment = {**default_environment(), "implementation_name": "cpython", "python_version": "3.13", **machine}
    found, waiting, seen = set(), [extra], set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        for requirement in map(Requirement, known[name]):
            if requirement.marker and not requirement.marker.evaluate({k: str(v) for k, v in environment.items()}):
                continue
            if requirement.name == project()["name"]:
                waiting += requirement.extras
            else:
                found.add(requirement.name)
    return found


def test_the_engine_and_the_cpu_backend_have_one_version_and_need_each_others() -> None:
    engine, cpu = project(), project("backends/sparsecore_cpu")
    assert engine["version"] == cpu["version"] == sparsecore.__version__
    assert f"sparsecore-engine[cli]=={cpu['version']}" in cpu["dependencies"]
    assert engine["optional-dependencies"]["cpu"] == [f"sparsecore-cpu=={engine['version']}"]


def test_both_distributions_run_on_the_same_pythons_and_carry_the_same_licence() -> None:
    engine, cpu = project(), project("backends/sparsecore_cpu")
    assert engine["requires-python"] == cpu["requires-python"]
    assert engine["license"] == cpu["license"]
    assert (ROOT / "LICENSE").read_bytes() == (ROOT / "backends/sparsecore_cpu/LICENSE").read_bytes()
    pythons = [line for line in engine["classifiers"] if "Python :: 3." in line]
    assert pythons == [line for line in cpu["classifiers"] if "Python :: 3." in line]


def test_the_citation_and_the_newest_section_of_the_changelog_are_of_this_version() -> None:
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    cited = re.search(r"^version: (\S+)\ndate-released: \"(\S+)\"$", citation, re.MULTILINE)
    sections = re.findall(r"^## \[(.+?)\](?: - (\S+))?$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert sections[0] == ("Unreleased", "")
    assert cited is not None
    assert cited.groups() == sections[1]
    assert sections[1][0] == sparsecore.__version__


WITH_WHEELS = [("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64"), ("darwin", "x86_64")]
WITHOUT_WHEELS = [("win32", "AMD64"), ("linux", "riscv64"), ("linux", "i686"), ("freebsd14", "amd64")]


@pytest.mark.parametrize(("system", "processor"), WITH_WHEELS)
def test_the_extra_all_contains_the_cpu_backend_where_it_has_wheels(system: str, processor: str) -> None:
    assert "sparsecore-cpu" in installed_with("all", sys_platform=system, platform_machine=processor)


@pytest.mark.parametrize(("system", "processor"), WITHOUT_WHEELS)
def test_the_extra_all_never_compiles_the_cpu_backend(system: str, processor: str) -> None:
    machine = {"sys_platform": system, "platform_machine": processor}
    assert "sparsecore-cpu" not in installed_with("all", **machine)
    assert installed_with("all", **machine) == installed_with("all-without-cpu", **machine)
    assert "sparsecore-cpu" in installed_with("cpu", **machine), "who asks for it gets it, compiled"


def test_the_extra_all_has_no_pytorch_where_there_are_no_wheels_of_it() -> None:
    assert "torch" in installed_with("all", sys_platform="darwin", platform_machine="arm64")
    assert "torch" not in installed_with("all", sys_platform="darwin", platform_machine="x86_64")


def test_a_checkout_asks_no_index_for_its_own_cpu_backend() -> None:
    machine = {"sys_platform": "linux", "platform_machine": "x86_64"}
    assert "sparsecore-cpu" not in installed_with("test", **machine)
    assert installed_with("all", **machine) - {"sparsecore-cpu"} <= installed_with("test", **machine)


WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=[path.name for path in WORKFLOWS])
def test_workflows_pin_their_actions_and_may_only_read_the_repository(path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    workflow = yaml.safe_load(path.read_text("utf-8"))
    for name, job in workflow["jobs"].items():
        granted = job.get("permissions", workflow.get("permissions"))
        assert granted is not None, f"{name} has the permissions of the repository's settings"
        assert job["timeout-minutes"] < 360, name
        for step in job["steps"]:
            assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", step.get("uses", f"none@{'0' * 40}")), step
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False
        if "write" in granted.values():
            assert set(granted) == {"id-token"} or path.name == "docs.yml", f"{name} may write"
            assert job.get("environment"), f"{name} publishes without an approval"


def test_only_a_tag_publishes_and_only_what_was_checked() -> None:
    yaml = pytest.importorskip("yaml")
    jobs = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text("utf-8"))["jobs"]
    publishing = {
        name: job for name, job in jobs.items() if any("pypi-publish" in step.get("uses", "") for step in job["steps"])
    }
    assert len({job["environment"]["name"] for job in publishing.values()}) == len(publishing) == 2
    for name, job in publishing.items():
        assert job["if"] == "github.ref_type == 'tag'"
        needed, waiting = set(), [name]
        while waiting:
            needs = jobs[waiting.pop()].get("needs", [])
            waiting += [needs] if isinstance(needs, str) else needs
            needed |= set(waiting)
        assert {"check", "sources", "wheels"} <= needed


def test_wheels_are_built_where_the_extra_all_asks_for_them() -> None:
    yaml = pytest.importorskip("yaml")
    jobs = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text("utf-8"))["jobs"]
    runners = jobs["wheels"]["strategy"]["matrix"]["runner"]
    assert len(runners) == len(WITH_WHEELS) == len(packages.PLATFORMS)
    built = tomllib.loads((ROOT / "backends/sparsecore_cpu/pyproject.toml").read_text("utf-8"))["tool"]["cibuildwheel"]
    pythons = [line.rpartition(" ")[2] for line in project()["classifiers"] if "Python :: 3." in line]
    assert built["build"] == " ".join(f"cp{python.replace('.', '')}-*" for python in pythons)


def test_the_support_page_names_the_oldest_versions_of_pyproject() -> None:
    page = (ROOT / "docs/support.md").read_text("utf-8")
    table = dict(re.findall(r"^\| (\w+) \| ([\d.]+) \|", page, re.MULTILINE))
    extras = project()["optional-dependencies"]
    listed = [Requirement(line) for line in chain(project()["dependencies"], *extras.values())]
    oldest = {need.name: str(need.specifier).removeprefix(">=") for need in listed}
    assert table["Python"] == project()["requires-python"].removeprefix(">=")
    assert [table[name] for name in ("NumPy", "PyTorch", "JAX")] == [oldest[name] for name in ("numpy", "torch", "jax")]

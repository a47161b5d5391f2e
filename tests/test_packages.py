"""The check of sdists and wheels finds what is missing, what should not be there, and the wrong version."""

import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterable
from email.message import Message
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import packages
import pytest
from packages import Package

ROOT = Path(__file__).parent.parent
METADATA = {"x.dist-info/entry_points.txt", "x.dist-info/licenses/LICENSE", "x.dist-info/RECORD", "x.dist-info/WHEEL"}
WHEEL = "sparsecore_cpu-{}-{}-{}.whl"

pytestmark = pytest.mark.skipif(
    not (shutil.which("git") and (ROOT / ".git").exists()), reason="git lists what belongs to a package"
)


def package(name: str, contents: Iterable[str]) -> Package:
    return Package(Path(name), frozenset(contents), Message())


def test_wheels_with_exactly_the_files_of_git_have_no_faults() -> None:
    engine = packages.installed_engine() | METADATA
    assert list(packages.engine_wheel(package("e-0-py3-none-any.whl", engine))) == []
    for compiled in ("_kernels.abi3.so", "_kernels.cpython-311-darwin.so", "_kernels.cpython-311-aarch64-linux-gnu.so"):
        cpu = {*packages.installed_cpu(), f"sparsecore_cpu/{compiled}", *METADATA}
        assert list(packages.cpu_wheel(package("c.whl", cpu))) == []


@pytest.mark.parametrize(
    "name",
    [
        "sparsecore/py.typed",
        "sparsecore_torch/py.typed",
        "sparsecore_pytest.py",
        "sparsecore/templates/strategy/strategy.py.txt",
        "sparsecore/experiment/presets/dpr.toml",
        "sparsecore/study/authors.json",
        "x.dist-info/licenses/LICENSE",
    ],
)
def test_a_file_that_is_missing_from_the_engines_wheel_is_named(name: str) -> None:
    complete = packages.installed_engine() | METADATA
    assert name in complete
    (fault,) = packages.engine_wheel(package("e-0-py3-none-any.whl", complete - {name}))
    assert name.removeprefix("x.dist-info/") in fault


@pytest.mark.parametrize("name", ["tests/test_engine.py", "sparsecore/fast.so", "sparsecore_cpu/__init__.py", "runs/x"])
def test_a_file_that_does_not_belong_into_the_engines_wheel_is_named(name: str) -> None:
    (fault,) = packages.engine_wheel(package("e-0-py3-none-any.whl", packages.installed_engine() | METADATA | {name}))
    assert name in fault


def test_a_wheel_of_the_cpu_backend_has_one_compiled_module_with_its_stub_and_no_sources() -> None:
    complete = packages.installed_cpu() | METADATA
    assert {"sparsecore_cpu/_kernels.pyi", "sparsecore_cpu/py.typed"} <= complete
    first, second = "sparsecore_cpu/_kernels.abi3.so", "sparsecore_cpu/_kernels.cpython-311-x86_64-linux-gnu.so"
    assert len(list(packages.cpu_wheel(package("c.whl", complete)))) == 1
    assert len(list(packages.cpu_wheel(package("c.whl", complete | {first, second})))) == 1
    (fault,) = packages.cpu_wheel(package("c.whl", complete | {first, "sparsecore_cpu/kernels.hpp"}))
    assert "kernels.hpp" in fault


def test_sdists_have_the_sources_and_nothing_that_was_built() -> None:
    cpu = {name.removeprefix(packages.CPU) for name in packages.tracked() if name.startswith(packages.CPU)}
    assert {"CMakeLists.txt", "LICENSE", "kernels/kernels.hpp", "src/sparsecore_cpu/_kernels.pyi"} <= cpu
    assert list(packages.cpu_sdist(package("c.tar.gz", cpu | {"PKG-INFO"}))) == []
    left = "src/sparsecore_cpu/_kernels.abi3.so"
    (fault,) = packages.cpu_sdist(package("c.tar.gz", cpu | {left}))
    assert left in fault


def test_another_tag_and_a_folder_without_packages_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    found = list(packages.faults(tmp_path, ["v7.8.9"], every_platform=False))
    assert "v7.8.9" in found[0]
    assert f"v{packages.version()}" in found[0]
    assert len([fault for fault in found if "has no sparsecore_" in fault]) == 4
    assert any("notes.txt" in fault for fault in found)


def test_a_release_needs_the_wheels_of_all_platforms() -> None:
    tags = [
        "manylinux2014_x86_64.manylinux_2_17_x86_64",
        "manylinux_2_28_aarch64",
        "macosx_11_0_arm64",
        "macosx_10_15_x86_64",
    ]
    files = [
        Path(WHEEL.format(packages.version(), python, tag)) for tag in tags for python in ("cp311-cp311", "cp312-abi3")
    ]
    assert list(packages.missing_platforms(files)) == []
    assert len(list(packages.missing_platforms([]))) == len(files)
    for left_out in files:
        (fault,) = packages.missing_platforms([file for file in files if file != left_out])
        assert ("3.11" in fault) == ("cp311" in left_out.name)


@pytest.mark.integration
@pytest.mark.skipif(not find_spec("hatchling"), reason="hatchling builds the engine")
def test_the_engine_is_built_from_its_sdist_with_exactly_the_files_of_git(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t"]
    subprocess.run([*build, "sdist", "-d", tmp_path], cwd=ROOT, check=True, capture_output=True)
    (sdist,) = tmp_path.glob("*.tar.gz")
    safely: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # from Python 3.11.4 on
    shutil.unpack_archive(sdist, tmp_path / "unpacked", **safely)
    (source,) = (tmp_path / "unpacked").iterdir()
    subprocess.run([*build, "wheel", "-d", tmp_path], cwd=source, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert list(packages.engine_sdist(Package.read(sdist))) == []
    assert list(packages.engine_wheel(Package.read(wheel))) == []
    assert Package.read(wheel).metadata["Version"] == packages.version()

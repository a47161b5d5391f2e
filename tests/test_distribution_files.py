"""What the engine's distribution has, and what it leaves to others."""

from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.skipif(not find_spec("hatchling"), reason="needs hatchling")


def shipped() -> set[str]:
    """The files of the wheel, by their paths there."""
    from hatchling.builders.wheel import WheelBuilder

    return {Path(file.distribution_path).as_posix() for file in WheelBuilder(str(ROOT)).recurse_included_files()}


def test_the_wheel_leaves_the_cpu_backend_to_its_own_distribution() -> None:
    assert (ROOT / "backends/sparsecore_cpu/pyproject.toml").exists()
    assert [name for name in shipped() if "sparsecore_cpu" in name] == []


def test_the_wheel_has_the_other_plugins_as_packages_and_needs_no_compiler() -> None:
    files = shipped()
    assert {
        "sparsecore/__init__.py",
        "sparsecore_numpy/__init__.py",
        "sparsecore_strategies/dpr.py",
        "sparsecore_models/wrn.py",
    } <= files
    assert {Path(name).suffix for name in files}.isdisjoint({".cpp", ".hpp", ".so", ".o", ".a"})

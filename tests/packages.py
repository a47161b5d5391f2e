"""Checks sdists and wheels before they are released: ``python tests/packages.py dist``, as ``make packages`` does.

Each has exactly the files that git has of it, so that nothing is left out and no file of one machine is published, and
the version of the tag that is released. ``--tag`` names it; otherwise it is that of the commit that is checked out, if
there is any. ``--every-platform`` asks for the wheels of all platforms that the engine's extra ``all`` names.
"""

import argparse
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from email.message import Message
from email.parser import Parser
from pathlib import Path, PurePosixPath

import attrs

ROOT = Path(__file__).parents[1]
CPU = "backends/sparsecore_cpu/"
GROUPS = ("backends/", "strategies/", "models/")
"""Folders whose packages are installed at the top level."""

PLATFORMS = {
    "Linux on x86-64": r"manylinux\w*_x86_64",
    "Linux on ARM": r"manylinux\w*_aarch64",
    "macOS on ARM": r"macosx_\w+_arm64",
    "macOS on Intel": r"macosx_\w+_x86_64",
}
INTERPRETERS = {"Python 3.11": "cp311-cp311", "Python 3.12 and newer": "cp312-abi3"}

KERNELS = re.compile(r"sparsecore_cpu/_kernels\.(abi3|cpython-311[\w-]*)\.so")


@attrs.frozen
class Package:
    """An sdist or a wheel: its file, the paths in it, and its metadata."""

    file: Path
    names: frozenset[str]
    metadata: Message

    @classmethod
    def read(cls, file: Path) -> "Package":
        """Read a wheel, or an sdist whose paths are given without its folder."""
        if file.suffix == ".whl":
            with zipfile.ZipFile(file) as wheel:
                names = [name for name in wheel.namelist() if not name.endswith("/")]
                (metadata,) = (name for name in names if re.fullmatch(r"[^/]+\.dist-info/METADATA", name))
                return cls(file, frozenset(names), Parser().parsestr(wheel.read(metadata).decode("utf-8")))
        with tarfile.open(file) as sdist:
            names = [member.name.partition("/")[2] for member in sdist if not member.isdir()]
            stream = sdist.extractfile(f"{file.name.removesuffix('.tar.gz')}/PKG-INFO")
            text = stream.read().decode("utf-8") if stream else ""
        return cls(file, frozenset(names), Parser().parsestr(text))

    @property
    def contents(self) -> frozenset[str]:
        """The paths without those of the metadata that the build adds."""
        return frozenset(name for name in self.names if ".dist-info/" not in name and name != "PKG-INFO")


def tracked() -> list[str]:
    """All files of the repository, as git lists them."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return listed.rstrip("\0").split("\0")


def installed_engine() -> set[str]:
    """The engine's modules and data where its wheel puts them."""
    sources = [name for name in tracked() if name.startswith(("sparsecore/", *GROUPS)) and not name.startswith(CPU)]
    return {name.partition("/")[2] if name.startswith(GROUPS) else name for name in sources}


def installed_cpu() -> set[str]:
    """The Python files of the CPU backend where its wheel puts them."""
    return {name.removeprefix(f"{CPU}src/") for name in tracked() if name.startswith(f"{CPU}src/")}


def differences(found: set[str] | frozenset[str], expected: set[str]) -> Iterator[str]:
    """Say which files are missing, and which should not be there."""
    for what, names in (("lacks", expected - found), ("should not have", found - expected)):
        if names:
            yield f"it {what} {', '.join(sorted(names)[:5])}{' and more' if len(names) > 5 else ''}"


def engine_wheel(package: Package) -> Iterator[str]:
    """Check the engine's wheel, which is for every platform and has nothing compiled."""
    yield from differences(package.contents, installed_engine())
    if not package.file.name.endswith("-py3-none-any.whl"):
        yield "it is not for every platform"
    yield from information(package)


def cpu_wheel(package: Package) -> Iterator[str]:
    """Check a wheel of the CPU backend, which has one compiled module and none of its sources."""
    compiled = {name for name in package.contents if KERNELS.fullmatch(name)}
    if len(compiled) != 1:
        yield f"it has {len(compiled)} compiled modules, not one"
    yield from differences(package.contents - compiled, installed_cpu())
    yield from information(package)


def information(package: Package) -> Iterator[str]:
    """Check what a wheel says of itself."""
    folders = {name.partition("/")[0] for name in package.names if ".dist-info/" in name}
    for name in ("entry_points.txt", "licenses/LICENSE", "RECORD", "WHEEL"):
        if not any(f"{folder}/{name}" in package.names for folder in folders):
            yield f"its metadata lack {name}"


def engine_sdist(package: Package) -> Iterator[str]:
    """Check the engine's sdist, which is the repository."""
    yield from differences(package.contents, set(tracked()))


def cpu_sdist(package: Package) -> Iterator[str]:
    """Check the sdist of the CPU backend, which has the C++ sources that a wheel is built from."""
    yield from differences(package.contents, {name.removeprefix(CPU) for name in tracked() if name.startswith(CPU)})


CHECKS: dict[str, Callable[[Package], Iterator[str]]] = {
    "sparsecore_engine-*.whl": engine_wheel,
    "sparsecore_engine-*.tar.gz": engine_sdist,
    "sparsecore_cpu-*.whl": cpu_wheel,
    "sparsecore_cpu-*.tar.gz": cpu_sdist,
}


def version() -> str:
    """The version that both distributions have."""
    folders = (ROOT, ROOT / CPU)
    found = {tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]["version"] for folder in folders}
    if len(found) > 1:
        raise SystemExit(f"The engine and the CPU backend have different versions: {', '.join(sorted(found))}.")
    return found.pop()


def tags_here() -> list[str]:
    """The tags of versions at the commit that is checked out."""
    command = ["git", "tag", "--points-at", "HEAD", "--list", "v[0-9]*"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()


def missing_platforms(files: list[Path]) -> Iterator[str]:
    """Say which of the wheels that a release has are missing."""
    for platform, pattern in PLATFORMS.items():
        for interpreter, tag in INTERPRETERS.items():
            wheel = re.compile(rf"sparsecore_cpu-{re.escape(version())}-{tag}-(\w+\.)*{pattern}\.whl")
            if not any(wheel.fullmatch(file.name) for file in files):
                yield f"there is no wheel of the CPU backend for {platform} and {interpreter}"


def faults(folder: Path, tags: list[str], every_platform: bool) -> Iterator[str]:
    """Check all packages of a folder.

    Args:
        folder: the folder, which contains nothing else.
        tags: the tags that the version must agree with.
        every_platform: ask for the wheels of all platforms.

    Yields:
        A sentence for each fault.
    """
    for tag in tags:
        if tag != f"v{version()}":
            yield f"The tag {tag} is not that of version {version()}, which would be v{version()}."
    files = sorted(file for file in folder.iterdir() if file.is_file())
    for pattern in CHECKS:
        if not any(PurePosixPath(file.name).match(pattern) for file in files):
            yield f"{folder} has no {pattern}."
    for file in files:
        check = next((check for pattern, check in CHECKS.items() if PurePosixPath(file.name).match(pattern)), None)
        if check is None:
            yield f"{file.name} is no package of this project."
            continue
        package = Package.read(file)
        if package.metadata["Version"] != version():
            yield f"{file.name} has version {package.metadata['Version']}, not {version()}."
        yield from (f"{file.name}: {fault}." for fault in check(package))
    if every_platform:
        yield from (f"{fault[0].upper()}{fault[1:]}." for fault in missing_platforms(files))


def main() -> None:
    """Print all faults, or what was checked."""
    parser = argparse.ArgumentParser(description="Checks the sdists and wheels in a folder.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tag", help="the tag that is released (default: those of this commit)")
    parser.add_argument("--every-platform", action="store_true", help="ask for the wheels of all platforms")
    given = parser.parse_args()
    found = list(faults(given.folder, [given.tag] if given.tag else tags_here(), given.every_platform))
    if found:
        sys.exit("\n".join(found))
    for file in sorted(given.folder.iterdir()):
        print(f"{file.name}: {len(Package.read(file).names)} files, {file.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()

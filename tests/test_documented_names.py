"""What README and docs/ name exists: modules, functions, files, links, commands, options, settings and extras."""

import ast
import importlib
import re
import shlex
import tomllib
from collections.abc import Iterator
from importlib.metadata import entry_points

import click
import pytest
from pages import ROOT, SAVED, blocks, read

from sparsecore.cli.command_line import commands
from sparsecore.cli.log_options import chosen_observers, split_settings
from sparsecore.experiment.assembly import assemble
from sparsecore.experiment.experiment import Experiment
from sparsecore.plugins.discovery import installed

PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("docs/explanations/*.md"),
        *ROOT.glob("docs/results/*.md"),
        ROOT / "benchmarks/README.md",
        ROOT / "backends/sparsecore_cpu/README.md",
    ]
    if path.name != "CHANGELOG.md"
)
PACKAGES = (
    "sparsecore",
    "sparsecore_numpy",
    "sparsecore_torch",
    "sparsecore_jax",
    "sparsecore_cpu",
    "sparsecore_strategies",
    "sparsecore_contrib",
    "sparsecore_models",
)
FOLDERS = ("sparsecore", "backends", "strategies", "models", "tests", "benchmarks", "docs", "examples")
FILES = [path for folder in FOLDERS for path in ROOT.glob(f"{folder}/**/*.*")]
OTHER_OPTIONS = {"--nproc-per-node", "--config-settings", "--sparsecore-strategy"}
"""Options of torchrun and pip, and the one that our plugin adds to pytest."""


def prose(page: str) -> str:
    """Returns a page without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", read(page), flags=re.DOTALL | re.MULTILINE)


def inline_code(page: str) -> list[str]:
    """Returns what stands between backticks in the prose."""
    return re.findall(r"`([^`\n]+)`", prose(page))


def exists(path: str) -> bool:
    """Whether a dotted path is a module, or an attribute of one."""
    parts = path.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for name in parts[length:]:
            if not hasattr(found, name):
                return False
            found = getattr(found, name)
        return True
    return False


WITH_OTHER_LIBRARIES = ("sparsecore_torch.lightning", "sparsecore_torch.transformers")
"""Modules that import libraries which can be imported only in processes of their own (test_trainer_pages.py)."""


def missing(package: str) -> bool:
    """Whether a package is one that a machine without PyTorch or a C++ compiler does not have."""
    names = {"sparsecore_torch": "torch", "sparsecore_jax": "jax", "sparsecore_cpu": "sparsecore_cpu"}
    return package in names and importlib.util.find_spec(names[package]) is None


@pytest.mark.parametrize("page", PAGES)
def test_every_dotted_path_exists(page: str) -> None:
    groups = set(entry_points().groups)
    for text in inline_code(page):
        for path in re.findall(r"(?<![\w./-])(sparsecore(?:_\w+)?(?:\.\w+)+)(?![\w-]*:)", text):
            is_elsewhere = path.startswith(WITH_OTHER_LIBRARIES) or path in groups
            if path.endswith((".py", ".md")) or is_elsewhere or missing(path.partition(".")[0]):
                continue
            assert exists(path), f"{page}: {path}"


@pytest.mark.parametrize("page", PAGES)
def test_every_import_exists(page: str) -> None:
    for block in blocks(page):
        if block.language not in {"python", "py"}:
            continue
        for node in ast.walk(ast.parse(block.code)):
            names = []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            for name in names:
                package = name.partition(".")[0]
                if package in PACKAGES and not missing(package) and not name.startswith(WITH_OTHER_LIBRARIES):
                    assert exists(name), f"{page}: {name}"


@pytest.mark.parametrize("page", PAGES)
def test_every_path_of_the_repository_exists(page: str) -> None:
    for text in inline_code(page):
        if re.fullmatch(rf"(?:{'|'.join(FOLDERS)})/[\w./*-]*", text):
            assert any(ROOT.glob(text.rstrip("/"))), f"{page}: {text}"


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_is_named_without_its_folder_exists(page: str) -> None:
    own = {name for block in blocks(page) for name in SAVED.findall(block.introduction)}
    for text in inline_code(page):
        if re.fullmatch(r"\w+\.(py|hpp|cpp|pyi)", text) and text not in own:
            assert any(path.name == text for path in FILES), f"{page}: {text}"


def anchor(heading: str) -> str:
    """Returns the anchor that GitHub gives to a heading."""
    return re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-")


@pytest.mark.parametrize("page", PAGES)
def test_every_link_has_an_existing_target(page: str) -> None:
    here = (ROOT / page).parent
    for link, place in re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", prose(page)):
        target = here / link if link else ROOT / page
        assert target.exists(), f"{page}: {link}"
        if place:
            headings = re.findall(r"^#+ (.*)$", target.read_text("utf-8"), re.MULTILINE)
            assert place in map(anchor, headings), f"{page}: {link}#{place}"


def lines_of_commands(page: str) -> Iterator[str]:
    """Yields the lines of fenced and indented blocks and the inline code, with continued lines joined."""
    text = re.sub(r"\\\n\s*", " ", read(page))
    shown = "\n".join([*re.findall(r"^```\w*\n(.*?)^```", text, re.S | re.M), *re.findall(r"^    (.*)", text, re.M)])
    yield from re.findall(r"^((?:\w+=\S+ )*(?:\.venv/bin/)?(?:sparsecore|make|python|torchrun) .*)$", shown, re.M)
    yield from (code for code in re.findall(r"`([^`\n]+)`", text) if re.match(r"(sparsecore|make|python) ", code))


def words(line: str) -> list[str]:
    """Returns the words of a command, without variables before it and a comment behind it."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    found = []
    for word in lexer:
        if word in {"&&", "|", ";"}:
            break
        found.append(word)
    while found and re.match(r"\w+=", found[0]):
        found.pop(0)
    return found


def command_of(arguments: list[str]) -> tuple[click.Command, list[str]]:
    """Returns the command that is called, and its own arguments."""
    command: click.Command = commands
    context = click.Context(commands)
    rest = list(arguments)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        found = command.get_command(context, rest[0])
        if found is None:
            break
        command, rest = found, rest[1:]
    return command, rest


def options_of(command: click.Command) -> set[str]:
    """Returns the names of a command's options."""
    options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    return options | {"--help", "-h", "--version"}


@pytest.mark.parametrize("page", PAGES)
def test_every_command_and_its_options_exist(page: str) -> None:
    for line in lines_of_commands(page):
        found = words(line)
        if not found or found[0].rpartition("/")[2] != "sparsecore":
            continue
        if any(word.endswith(".toml") for word in found[1:3]) and found[1] == "study":
            found[2] = "fig1a"  # a study of one's own takes the options that the presets take
        command, rest = command_of(found[1:])
        unknown = {word.partition("=")[0] for word in rest if word.startswith("--")} - options_of(command)
        assert not unknown, f"{page}: {line}"


@pytest.mark.parametrize("page", PAGES)
def test_every_documented_training_command_is_a_valid_experiment(page: str) -> None:
    simple = {
        "--model": "model.name",
        "--data": "data.name",
        "--backend": "backend.name",
        "--sparsity": "sparsity",
        "--epochs": "training.epochs",
        "--batch-size": "training.batch_size",
        "--seed": "seed",
    }
    for line in lines_of_commands(page):
        found = words(line)
        if (
            found[:2] != ["sparsecore", "train"]
            or "[" in line
            or re.search(r"\.toml|\.py:|start\.run|\.\.\.|NAME|torchvision:|timm:", line)
        ):
            continue
        pairs = list(zip(found[2::2], found[3::2], strict=False))
        given = [(name, value) for name, value in pairs if name in simple]
        if any(value == "cpu" for _, value in given) and not any(e.name == "cpu" for e in installed("backend")):
            continue
        settings = [value for name, value in pairs if name == "--set"]
        strategies = [value for name, value in pairs if name == "--strategy"]
        settings += [f"{simple[name]}={value}" for name, value in given]
        settings, of_logs = split_settings(settings)
        chosen_observers([value for name, value in pairs if name == "--log"], of_logs, {})
        Experiment.of(assemble(None, {}, strategies, settings))


@pytest.mark.parametrize("page", PAGES)
def test_every_option_named_in_the_prose_exists(page: str) -> None:
    known = set(OTHER_OPTIONS)
    queue: list[click.Command] = [commands]
    while queue:
        command = queue.pop()
        known |= options_of(command)
        if isinstance(command, click.Group):
            context = click.Context(command)
            queue += [found for name in command.list_commands(context) if (found := command.get_command(context, name))]
    for script in [*ROOT.glob("benchmarks/*.py"), *ROOT.glob("tests/*.py")]:
        known |= set(re.findall(r'"(--[\w-]+)"', script.read_text("utf-8")))
    for text in inline_code(page):
        for option in re.findall(r"(?<!\S)(--[a-z][\w-]+)", text):
            assert option in known, f"{page}: {option}"


@pytest.mark.parametrize("page", PAGES)
def test_every_target_script_and_extra_exists(page: str) -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    for line in lines_of_commands(page):
        found = words(line)
        program = found[0].rpartition("/")[2] if found else ""
        if program == "make":
            targets = [word for word in found[1:] if re.fullmatch(r"[a-z-]+", word)]
            assert all(re.search(rf"^{target}:", makefile, re.M) for target in targets), f"{page}: {line}"
        if program == "python" and len(found) > 1 and found[1].startswith(("benchmarks/", "tests/")):
            assert (ROOT / found[1]).exists(), f"{page}: {line}"
            script = "".join(path.read_text("utf-8") for path in (ROOT / found[1]).parent.glob("*.py"))
            assert all(f'"{word}"' in script for word in found if word.startswith("--")), f"{page}: {line}"
        for extra in re.findall(r"'\.\[([\w,]+)\]'", line):
            if "new-strategy" not in read(page):  # the page's own project has extras of its own
                assert set(extra.split(",")) <= set(extras), f"{page}: {line}"


@pytest.mark.parametrize("page", PAGES)
def test_no_page_contains_a_path_of_a_machine(page: str) -> None:
    assert not re.search(r"(?<![\w.])/(?:root|home|work|Users|opt)/", read(page)), page


def test_every_benchmark_is_described() -> None:
    page = read("benchmarks/README.md")
    for script in ROOT.glob("benchmarks/*.py"):
        assert f"`{script.name}`" in page, script.name


def test_every_package_has_its_line_in_contributing() -> None:
    page = read("CONTRIBUTING.md")
    for folder in (*ROOT.glob("sparsecore/*/"), *ROOT.glob("backends/*/"), *ROOT.glob("*/sparsecore_*s/")):
        if folder.name != "__pycache__":
            assert f"`{folder.relative_to(ROOT)}/`" in page, folder


def test_every_target_of_make_has_its_line_in_contributing() -> None:
    targets = re.findall(r"^\.PHONY: (.*)$", read("Makefile"), re.MULTILINE)
    for target in targets[0].split():
        assert target == "help" or f"make {target}" in read("CONTRIBUTING.md"), target

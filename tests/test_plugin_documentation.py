"""What the pages about writing plugins list is complete, and the example of the hooks prints what is shown."""

import inspect
import re
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from engine_examples import ARRAYS, TWO_TENSORS

from sparsecore import Clock, Engine, hookimpl
from sparsecore.engine import hooks
from sparsecore.engine.arrays import Arrays
from sparsecore.learning.protocols import Operations
from sparsecore.testing.strategy_promises import STRATEGY_PROMISES

DOCS = Path(__file__).parent.parent / "docs"
PAGES = {
    name: (DOCS / f"{name}.md").read_text("utf-8")
    for name in ("hooks", "write-a-strategy", "write-a-backend", "write-a-model", "write-a-data-set")
}
HOOKS = PAGES["hooks"]
SECTIONS = dict(re.findall(r"^### `(\w+)`\n(.*?)(?=^##|\Z)", HOOKS, re.DOTALL | re.MULTILINE))


def blocks(page: str, language: str = "python") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGES[page], re.DOTALL | re.MULTILINE)


def row(hook: str, title: str) -> str:
    """What the hook's table says under this title."""
    (content,) = re.findall(rf"^\| {title} \| (.+) \|$", SECTIONS[hook], re.MULTILINE)
    return str(content)


def specifications() -> dict[str, Any]:
    """Every hook, in the order of the file."""
    return {name: function for name, function in vars(hooks).items() if hasattr(function, f"{hooks.PROJECT}_spec")}


def witness(seen: list[str]) -> object:
    """A strategy that takes part in every step and decides none."""

    def noting(hook: str) -> Any:
        def method(self: Any) -> None:  # noqa: ARG001
            seen.append(hook)

        return hookimpl(method)

    return attrs.make_class("Witness", [], frozen=True, eq=False, class_body={h: noting(h) for h in specifications()})()


def test_every_hook_has_its_section_in_the_order_in_which_a_run_calls_them() -> None:
    seen: list[str] = []
    engine = Engine(TWO_TENSORS, [witness(seen)], arrays=ARRAYS)
    state = engine.start(0.8, clock=Clock(step=99))
    values = engine.start_values(state, np.ones(state.topology.size))
    engine.young_weights()
    engine.visible_weights(state)
    engine.plan(state)
    engine.perturbed_gradient(state, values, values)
    engine.advance(state, values)
    engine.metrics(state)
    called = list(dict.fromkeys(seen))
    assert called == list(SECTIONS)
    assert called == list(specifications())


@pytest.mark.parametrize("hook", SECTIONS)
def test_the_page_lists_the_arguments_of_each_hook(hook: str) -> None:
    assert re.findall(r"`(\w+)`", row(hook, "arguments")) == list(inspect.signature(specifications()[hook]).parameters)


@pytest.mark.parametrize("hook", SECTIONS)
def test_the_page_says_how_each_hook_combines_results(hook: str) -> None:
    decided = specifications()[hook].sparsecore_spec["firstresult"]
    assert row(hook, "combination").startswith("first result; default: " if decided else "each ")


@pytest.mark.parametrize("hook", SECTIONS)
def test_the_page_lists_every_promise_of_each_hook(hook: str) -> None:
    listed = {name for names in re.findall(r"\((`[^)]+`)\)", row(hook, "checked")) for name in names.split("`")[1::2]}
    assert listed <= {promise.name for promise in STRATEGY_PROMISES}
    # promises about several hooks at once are documented for the strategy as a whole
    assert {promise.name for promise in STRATEGY_PROMISES if hook in promise.hooks and len(promise.hooks) < 4} <= listed


def test_the_example_of_the_hooks_prints_the_documented_output(capsys: pytest.CaptureFixture[str]) -> None:
    (code,), (printed,) = blocks("hooks"), blocks("hooks", "text")
    exec(code, {})
    assert capsys.readouterr().out == printed


def test_the_page_lists_every_array_operation_of_a_backend() -> None:
    table = PAGES["write-a-backend"].partition("## Arrays")[2].partition("\n\nThey are pure")[0].partition("|---|")[2]
    listed = [name for line in table.splitlines() for name in re.findall(r"`(\w+)`", line.rpartition(" | ")[0])]
    assert listed == [name for name in vars(Arrays) if not name.startswith("_")]


def test_the_page_lists_every_operation_of_a_model() -> None:
    listed = re.findall(r"^\| `ops\.(\w+)\(", PAGES["write-a-model"], re.MULTILINE)
    assert listed == [name for name in vars(Operations) if not name.startswith("_")]

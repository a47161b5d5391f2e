"""The pages docs/trainers.md and docs/trainers-timm.md, and the examples that use Lightning, transformers and timm."""

from importlib.util import find_spec
from typing import Any

import pytest
from processes import call_named

pytest.importorskip("torch")

NEEDED = ("lightning", "transformers", "timm", "torchvision")
pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not all(map(find_spec, NEEDED)), reason=f"needs {', '.join(NEEDED)}"),
]

ROWS = {
    "lightning_mnist": ["dense", "set"],
    "trainer_bert": ["dense", "static", "set", "dpr"],
    "vit_cifar": ["dense", "set", "dpr"],
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Any:
    (ended,) = call_named("trainer_pages", "everything", tmp_path_factory.mktemp("trainers"))
    return ended.answer


@pytest.mark.parametrize("example", ROWS)
def test_an_example_compares_dense_and_sparse_networks_in_a_table(answers: Any, example: str) -> None:
    answer = answers["examples"][example]
    table, printed, again, _ = answer["tables"]
    rows = [line.split("|")[1].strip() for line in table.splitlines()[2:]]
    assert rows == ROWS[example]
    weights = [int(line.split("|")[2].replace(",", "")) for line in table.splitlines()[2:]]
    assert max(weights[1:]) < 0.25 * weights[0]
    assert table in printed
    assert "seed 0" in printed
    if example != "lightning_mnist":
        assert again == table
        assert "other settings" in answer["refused"]


@pytest.mark.parametrize("example", ROWS)
def test_an_example_explains_its_options(answers: Any, example: str) -> None:
    shown = answers["examples"][example]["help"]
    for option in ("--out", "--seed", "--steps", "--strategies", "--sparsity"):
        assert option in shown


def test_the_example_of_the_page_about_trainers_trains_sparsely(answers: Any) -> None:
    *_, line = answers["docs/trainers.md"].splitlines()
    count, size = (int(word) for word in line.split() if word.isdigit())
    assert size == 64 * 64
    assert 0.05 * size < count < 0.12 * size


def test_timms_loop_with_these_lines_resumes_bit_for_bit_and_keeps_its_average_sparse(answers: Any) -> None:
    assert float(answers["docs/trainers-timm.md"]) == pytest.approx(0.8, abs=0.05)

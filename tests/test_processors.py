"""`make test-processors`: which settings it runs, and that it names a failing combination."""

from itertools import combinations, product
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("sparsecore_cpu._kernels")

from processors import covering, described, files, run, variables


@pytest.mark.parametrize("capability", ["AVX512", "AVX2", "DEFAULT", "SVE256"])
def test_every_pair_of_values_of_two_variables_is_covered(capability: str) -> None:
    settings = variables(capability)
    chosen = [dict(one) for one in covering(settings)]
    assert len(chosen) <= 10
    for one, other in combinations(settings, 2):
        assert {(row[one], row[other]) for row in chosen} == set(product(settings[one], settings[other]))


def test_the_tests_that_are_run_exist_and_compare_backends() -> None:
    chosen = list(files())
    assert len(chosen) == len(set(chosen)) > 20
    assert {"tests/test_torch_agreement.py", "tests/test_cpu_agreement.py"} <= set(chosen)


@pytest.mark.integration
def test_a_failing_combination_is_printed_with_the_command_that_reproduces_it(tmp_path: Path) -> None:
    content = "import os\n\n\ndef test_of_one_thread():\n    assert os.environ['OMP_NUM_THREADS'] == '1'\n"
    (tmp_path / "test_some.py").write_text(content)
    combination = next(one for one in covering(variables("AVX512")) if ("OMP_NUM_THREADS", "2") in one)
    outcome = run(combination, [str(tmp_path)])
    assert outcome.status == 1
    assert [test.partition("::")[2] for test in outcome.failed] == ["test_of_one_thread"]
    assert "OMP_NUM_THREADS=2" in described(combination)

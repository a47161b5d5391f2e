"""Runs the tests whose outcome depends on arithmetic as other processors would: ``python tests/processors.py``.

Libraries choose their code by the processor, and round differently with each choice. Environment variables make the
choice here, so that one machine stands for several. Not every combination is run: of any two variables every pair of
settings that this processor can run occurs in at least one of the combinations.

``--only NUMBER`` runs a single combination; further arguments go to pytest in place of the list of tests.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import attrs

ROOT = Path(__file__).parents[1]

ARITHMETIC = (
    "baseline_models",
    "compact_ddp",
    "cpu_agreement",
    "cpu_bfloat16",
    "cpu_blocks",
    "cpu_combinations",
    "cpu_convolution",
    "cpu_image_networks",
    "cpu_inference*",
    "cpu_linear",
    "cpu_models*",
    "cpu_networks",
    "cpu_normalization",
    "cpu_operations",
    "cpu_pointwise",
    "cpu_pooling",
    "cpu_products",
    "cpu_shapes",
    "cpu_threads",
    "cpu_windows",
    "dense_gradients",
    "learner",
    "numpy_*",
    "optimizers",
    "sparsify",
    "sparsify_compact",
    "sparsify_kernels*",
    "sparsify_compiled",
    "sparsify_gradients",
    "sparsify_loops",
    "strategy_pieces",
    "strategy_s[eno]*",
    "tied_weights",
    "torch_agreement",
    "torch_compiled_learner",
    "torch_learner",
    "torch_operations",
    "torch_tied",
    "written_before",
)
"""The files tests/test_*.py with tests that compare computed numbers, or decisions that follow from them."""

Setting = tuple[str, str | None]
"""An environment variable, and what it is set to; None where it is not set."""

Combination = tuple[Setting, ...]


@attrs.frozen
class Outcome:
    """What pytest said under one combination."""

    combination: Combination
    status: int
    output: str

    @property
    def failed(self) -> list[str]:
        """The tests that failed."""
        lines = self.output.splitlines()
        return [line.split()[1] for line in lines if line.startswith(("FAILED ", "ERROR "))]


def variables(capability: str) -> dict[str, Sequence[str | None]]:
    """The settings of each variable that a processor can run.

    Args:
        capability: of the processor, as torch names it: DEFAULT, AVX2 or AVX512; another name on other architectures.
    """
    from sparsecore_cpu.runtime import KERNELS, kernel_names

    blas: dict[str, Sequence[str | None]] = {"AVX2": ("Haswell", "Zen"), "AVX512": ("Haswell", "SkylakeX", "Zen")}
    vectors: dict[str, Sequence[str | None]] = {"AVX2": (None, "default"), "AVX512": (None, "avx2", "default")}
    layers: dict[str, Sequence[str | None]] = {"AVX2": (None, "SSE41"), "AVX512": (None, "AVX2", "SSE41")}
    return {
        "OPENBLAS_CORETYPE": blas.get(capability, (None,)),
        KERNELS: [name for name in kernel_names() if name != "amx"],  # which has tests of its own
        "ATEN_CPU_CAPABILITY": vectors.get(capability, (None,)),
        "ONEDNN_MAX_CPU_ISA": layers.get(capability, (None,)),
        "OMP_NUM_THREADS": ("1", "2"),
    }


def covering(settings: Mapping[str, Sequence[str | None]]) -> list[Combination]:
    """Ten combinations in which every pair of settings of two variables occurs (an orthogonal array, and one more).

    Args:
        settings: of four variables up to three, of the last one two.
    """
    rows = [(one, other, int(one < 2 and other < 2)) for one, other in product(range(3), repeat=2)]
    chosen = []
    for one, other, last in (*rows, (2, 2, 1)):
        numbers = (one, other, (one + other) % 3, (one + 2 * other) % 3, last)
        named = zip(settings.items(), numbers, strict=True)
        chosen.append(tuple((name, values[number % len(values)]) for (name, values), number in named))
    return list(dict.fromkeys(chosen))


def files() -> Iterator[str]:
    """The files that are run."""
    for pattern in ARITHMETIC:
        found = sorted(path.relative_to(ROOT) for path in (ROOT / "tests").glob(f"test_{pattern}.py"))
        assert found, f"no file of tests matches {pattern}"
        yield from map(str, found)


def environment(combination: Combination) -> dict[str, str]:
    """This process's own, with the settings of the combination."""
    named = dict(combination)
    kept = {name: value for name, value in os.environ.items() if name not in named}
    return kept | {name: value for name, value in named.items() if value is not None}


def described(combination: Combination) -> str:
    """As one writes it before a command."""
    return " ".join(f"{name}={value}" if value is not None else f"-u {name}" for name, value in combination)


def run(combination: Combination, arguments: Sequence[str]) -> Outcome:
    """The tests under one combination."""
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment(combination), capture_output=True, text=True, check=False)
    return Outcome(combination, done.returncode, done.stdout + done.stderr)


def processors() -> int:
    """How many this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def main() -> int:
    """Run all combinations, as many at a time as there are processors."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=int, metavar="NUMBER", help="run this combination alone, counted from 1")
    options, rest = parser.parse_known_args()
    chosen = list(enumerate(covering(variables(torch.backends.cpu.get_cpu_capability())), start=1))
    chosen = [(number, one) for number, one in chosen if options.only in {None, number}]
    if not chosen:
        parser.error(f"there is no combination {options.only}")
    arguments = rest or list(files())
    failures = []
    with ThreadPoolExecutor(processors()) as pool:
        outcomes = pool.map(lambda numbered: run(numbered[1], arguments), chosen)
        for (number, combination), outcome in zip(chosen, outcomes, strict=True):
            last = outcome.output.strip().splitlines()[-1:]
            print(f"{number:2} {described(combination)}: {' '.join(last)}", flush=True)
            if outcome.status:
                failures.append(outcome)
    for outcome in failures:
        print(f"\nFailed under\n  env {described(outcome.combination)} python -m pytest {' '.join(outcome.failed)}")
        print(outcome.output)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

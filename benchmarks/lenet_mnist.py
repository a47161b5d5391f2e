"""LeNet-300-100 on MNIST at sparsity 0.99, DPR against a static topology: the table of docs/lenet-mnist.md.

    python benchmarks/lenet_mnist.py --data-dir DIR [--trials 5] [--out docs/lenet-mnist.md]

Every trial is a ``sparsecore train`` of its own, with the preset's settings and the trial's number for a seed. The
authors' numbers are from their released raw results (TimDettmers/sparse_learning, results/dynamic_sparse).
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

AUTHORS = {"dpr": (97.73, 97.71, 97.80, 97.77, 97.76), "static": (54.60, 42.84, 52.88, 53.82, 43.32)}
"""Test accuracies in percent of five trials at sparsity 0.99."""


def trial(strategy: str, seed: int, data: Path, folder: Path) -> dict[str, Any]:
    """The result of one run."""
    what = ["--model", "lenet-300-100", "--data", "mnist", "--sparsity", "0.99", "--strategy", strategy]
    where = ["--data-dir", str(data), "--seed", str(seed), "--out", str(folder / f"{strategy}-{seed}")]
    command = [sys.executable, "-m", "sparsecore", "train", *what, *where, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def trials(strategy: str, count: int, data: Path, folder: Path) -> list[dict[str, Any]]:
    """The results of seeds 0, 1, ..., two at a time."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(partial(trial, strategy, data=data, folder=folder), range(count)))


def row(strategy: str, results: list[dict[str, Any]]) -> str:
    """A line of the table."""
    ours = [100 * result["test_accuracy"] for result in results]
    theirs = AUTHORS[strategy]
    cells = [
        f"`{strategy}`",
        f"{results[0]['sparse_parameters']:,}",
        f"{results[0]['reallocations']}",
        spread(ours),
        " ".join(f"{accuracy:.2f}" for accuracy in ours),
        spread(theirs),
        f"{statistics.median(result['seconds'] for result in results):.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def spread(accuracies: "list[float] | tuple[float, ...]") -> str:
    """Mean and standard deviation."""
    deviation = statistics.stdev(accuracies) if len(accuracies) > 1 else float("nan")
    return f"{statistics.mean(accuracies):.2f} ± {deviation:.2f}"


def page(rows: list[str], trials: int) -> str:
    """The page with the table."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], stdout=subprocess.PIPE, text=True, check=True)
    head = "| strategy | weights | updates | test accuracy, % | trials | the authors', % | seconds a trial |"
    return f"""# LeNet-300-100 on MNIST at sparsity 0.99

How much does moving weights matter at an extreme sparsity? All three weight matrices are sparse and start uniformly, so
only 10 weights lead into the 10 classes. A static topology cannot change that; DPR moves weights there from the first
layer. One trial:

    sparsecore train --model lenet-300-100 --data mnist --data-dir DIR --sparsity 0.99 --strategy dpr

DIR is a folder with `MNIST/raw/`; without `--data-dir` MNIST is downloaded. All trials, with seeds 0 to {trials - 1}:

{head}
|---|---|---|---|---|---|---|
{chr(10).join(rows)}

The accuracy is the mean ± standard deviation after the last epoch. The settings are those of the preset
`sparsecore/experiment/presets/lenet-mnist.toml`, the authors' as far as they are known. The authors' trials are from
their released raw results.

Measured by `python benchmarks/lenet_mnist.py --data-dir DIR --trials {trials}` at commit {commit.stdout.strip()}, on
{platform.machine()} with Python {platform.python_version()}, two trials side by side on two cores.
[LeNet on MNIST over sparsity](results/lenet-mnist.md) compares more strategies.
"""


def main() -> None:
    """Run the trials and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data-dir", type=Path, required=True, help="folder with MNIST/raw/")
    parser.add_argument("--trials", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("docs/lenet-mnist.md"))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [row(strategy, trials(strategy, given.trials, given.data_dir, Path(folder))) for strategy in AUTHORS]
    given.out.write_text(page(rows, given.trials), "utf-8")
    print("\n".join(rows))


if __name__ == "__main__":
    main()

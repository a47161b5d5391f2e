#!/usr/bin/env bash
# Tries an installed CPU backend, as cibuildwheel does with each wheel: its kernels against NumPy, then a training run.
# It needs the engine with the extras data and testing, and no compiler.
set -euo pipefail
tests=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
place=$(mktemp -d)
trap 'rm -r "$place"' EXIT
cd "$place" # away from the checkout, whose packages would be imported in place of the installed ones

python -c 'import sparsecore_cpu; from sparsecore_cpu.runtime import kernel_names; print(sparsecore_cpu.__file__, kernel_names())'
python -m pytest -q -p no:cacheprovider -c "$tests/../pyproject.toml" --rootdir "$tests" \
  "$tests/test_cpu_kernels.py" "$tests/test_cpu_linear.py" "$tests/test_cpu_convolution.py"
sparsecore train --backend cpu --model lenet-32-16 --sparsity 0.9 --epochs 2 \
  --set strategy.schedule.steps=5 --out run

"""The command line: ``sparsecore train``, ``lottery``, ``study``, ``plugins``, ``report``, ``check`` and so on."""

import sys

from sparsecore.extras import MissingPackageError, require

_PACKAGES = ("click", "rich", "cattrs", "tomli_w", "safetensors", "threadpoolctl")


def main() -> None:
    """Run the command line. Exit status: 0, 1 for a failed run, 2 for wrong input, 130 for an interrupt."""
    try:
        require(*_PACKAGES, extra="cli", purpose="the command line")
    except MissingPackageError as error:
        sys.exit(_refusal(error))
    from sparsecore.cli.command_line import run_process

    run_process()


def _refusal(error: MissingPackageError) -> int:
    # without click, which prints everything else
    print(f"sparsecore: {error}", file=sys.stderr)
    return 2

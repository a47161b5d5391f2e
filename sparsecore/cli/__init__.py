"""The command line: ``sparsecore train``, ``lottery``, ``study``, ``report``, ``check`` and others."""

import sys

from sparsecore.extras import MissingPackageError, require

_PACKAGES = ("click", "rich", "cattrs", "tomli_w", "safetensors", "threadpoolctl")


def main() -> None:
    """Run the command line and exit: 0 for success, 1 for a failed run, 2 for wrong input, 130 for an interrupt."""
    try:
        require(*_PACKAGES, extra="cli", purpose="the command line")
        from sparsecore.cli.command_line import run_process
    except MissingPackageError as error:
        print(f"sparsecore: {error}", file=sys.stderr)  # click, which prints everything else, may be missing
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    run_process()

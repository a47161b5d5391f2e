"""``python -m sparsecore``: the command line."""

from sparsecore.cli import main

main()

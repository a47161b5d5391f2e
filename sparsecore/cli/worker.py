"""The command line in the process of a trial, which ends when the process that started it does.

Otherwise a study that is killed would leave trials running, which keep the folders of their runs locked.
"""

import os
import signal
import threading

from sparsecore.cli import main


def _terminate_with_parent() -> None:
    # Blocks until the parent closes its end of the pipe. Not through sys.stdin, whose lock would block a regular exit.
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=_terminate_with_parent, daemon=True).start()
    main()

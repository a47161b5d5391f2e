"""A trial's process: the command line of sparsecore, which ends when the process that started it does.

Otherwise a study that is killed would leave trials behind that nobody waits for, and that hold their runs' folders.
"""

import os
import signal
import threading

from sparsecore.cli import main


def _end_with_parent() -> None:
    # until the other end of the pipe is closed; not by sys.stdin, whose lock would be in the way of a regular end
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    main()

"""Runs pickles for real, each in a process of its own: `python unpickling.py FOLDER SECONDS`.

FOLDER has one folder a pickle, with the file `pickle` in it. What came of it goes into a file
`outcome` there; there is none if the process died. Only for pickles made by `exploits.py`.
"""

import atexit
import copyreg
import os
import pickle
import resource
import signal
import sys
import threading
from pathlib import Path

import numpy as np  # noqa: F401  # once here, and not again in each process

from exploits import EXTENSIONS

MOST_MEMORY = 2**29  # bytes of address space beyond what this process has now


def unpickle(folder: Path, seconds: float) -> None:
    """Do it, with limits on time and memory."""
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MOST_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        pickle.loads((folder / "pickle").read_bytes())
        outcome = "returned"
    except BaseException as error:
        outcome = type(error).__name__
    (folder / "outcome").write_text(outcome)
    threading._shutdown()  # waits for threads, as the end of a program does
    atexit._run_exitfuncs()


def main() -> None:
    """Start them all and wait for all."""
    for code in EXTENSIONS:
        copyreg._inverted_registry[code] = ("posix", "mkdir")  # add_extension takes one a name
    for folder in Path(sys.argv[1]).iterdir():
        if os.fork() == 0:
            try:
                unpickle(folder, float(sys.argv[2]))
            finally:
                os._exit(0)
    while True:
        try:
            os.wait()
        except ChildProcessError:
            return


if __name__ == "__main__":
    main()

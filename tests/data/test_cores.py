"""Decoding on all cores: results in order, and no process outlives the block."""

import os
import signal
import subprocess
import sys

import pytest

from plainfit.data import folder
from plainfit.data.folder import on_all_cores

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),  # from Python 3.12 on
    pytest.mark.skipif(sys.platform != "linux", reason="threads do it elsewhere than on Linux"),
]
SLOW = """
import os, sys, time
from plainfit.data import folder
folder.cores = lambda: 2
with folder.on_all_cores(lambda i: time.sleep(0.005) or bytes(5000), range(32 * 200)) as results:
    next(results)
    print("working", flush=True)
    for _ in results:
        pass
"""


@pytest.fixture(autouse=True)
def _three_processes(monkeypatch):
    monkeypatch.setattr(folder, "cores", lambda: 3)


@pytest.mark.parametrize("n", [0, 1, 31, 64, 96, 97, 1000])
def test_results_are_in_order_whoever_works(n):
    here = os.getpid()
    with on_all_cores(lambda i: (i * i, os.getpid()), range(n)) as results:
        squares = list(results)
    assert [square for square, _ in squares] == [i * i for i in range(n)]
    workers = {pid for _, pid in squares}
    if n < 2 * folder.CHUNK:
        assert workers <= {here}
    else:
        assert here not in workers
        assert len(workers) <= 3


def test_results_larger_than_a_pipe_arrive():
    with on_all_cores(lambda i: bytes([i]) * 2**16, range(100)) as results:
        assert all(result == bytes([i]) * 2**16 for i, result in enumerate(results))


def test_a_process_that_is_killed_is_an_error():
    def work(i):
        if i == 70:
            os.kill(os.getpid(), signal.SIGKILL)
        return i

    with (
        pytest.raises(ChildProcessError, match="was killed"),
        on_all_cores(work, range(100)) as results,
    ):
        list(results)


def test_processes_end_with_the_block():
    with on_all_cores(lambda i: (os.getpid(), bytes(10_000)), range(1000)) as results:
        pids = {next(results)[0] for _ in range(96)}
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_processes_end_with_the_main_one(sent):
    started = subprocess.Popen(
        [sys.executable, "-c", SLOW],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert started.stdout.readline() == "working\n"
    # A terminal sends Ctrl-C to the whole group, `kill` to the main process alone.
    (os.killpg if sent == signal.SIGINT else os.kill)(started.pid, sent)
    try:
        errors = started.communicate(timeout=15)[1]  # until every process has closed it
    except subprocess.TimeoutExpired:
        os.killpg(started.pid, signal.SIGKILL)
        pytest.fail("a process was left")
    assert started.returncode != 0
    assert errors.count("Traceback") == (1 if sent == signal.SIGINT else 0), errors

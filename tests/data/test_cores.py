"""Decoding on all cores: results in order, and no process outlives the block."""

import os
import select
import signal
import sys
import time

import pytest

from plainfit.data import decoding
from plainfit.data.decoding import on_all_cores

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),  # from Python 3.12 on
    pytest.mark.skipif(sys.platform != "linux", reason="threads do it elsewhere than on Linux"),
]


@pytest.fixture(autouse=True)
def _three_processes(monkeypatch):
    monkeypatch.setattr(decoding, "cores", lambda: 3)


@pytest.mark.parametrize("n", [0, 1, 31, 64, 96, 97, 1000])
def test_results_are_in_order_whoever_works(n):
    here = os.getpid()
    with on_all_cores(lambda i: (i * i, os.getpid()), range(n)) as results:
        squares = list(results)
    assert [square for square, _ in squares] == [i * i for i in range(n)]
    workers = {pid for _, pid in squares}
    if n < 2 * decoding.FEW:
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


def decode_slowly(write_end):
    """Be a main process of its own session, which reports its exceptions to the pipe."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with on_all_cores(lambda i: time.sleep(0.005) or bytes(5000), range(32 * 200)) as results:
            next(results)
            os.write(write_end, b"working\n")
            for _ in results:
                pass
    except BaseException as error:
        os.write(write_end, type(error).__name__.encode())
    finally:
        os._exit(1)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_processes_end_with_the_main_one(sent):
    read_end, write_end = os.pipe()
    if (pid := os.fork()) == 0:
        os.close(read_end)
        decode_slowly(write_end)
    os.close(write_end)
    assert os.read(read_end, 8) == b"working\n"
    # A terminal sends Ctrl-C to the whole group, `kill` to the main process alone.
    (os.killpg if sent == signal.SIGINT else os.kill)(pid, sent)
    said = b""
    while True:  # until every process has closed the pipe
        if not select.select([read_end], [], [], 30)[0]:
            os.killpg(pid, signal.SIGKILL)
            pytest.fail("a process was left")
        if not (more := os.read(read_end, 100)):
            break
        said += more
    os.close(read_end)
    os.waitpid(pid, 0)
    assert said == (b"KeyboardInterrupt" if sent == signal.SIGINT else b"")

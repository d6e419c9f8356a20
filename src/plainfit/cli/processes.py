"""`--processes N`: the same command in N processes of this machine, as `torchrun` starts them."""

import math
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Annotated, Any

from typer import Exit, Option

from plainfit.cli.shared import BAD_INPUT, FAILED, show
from plainfit.common.errors import ConfigError
from plainfit.common.schema import SHARDS, UP_TO_COUNT, Between, check_values
from plainfit.runs.settings import RunConfig

STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)  # exit codes of a training that was asked to
LIMITS = {
    "processes": Annotated[int, Between(1, 1024)],
    "max_restarts": Annotated[int, UP_TO_COUNT],
}
GRACE = 8.0  # seconds in which the others must end once one is lost
Processes = Annotated[
    int, Option("--processes", help="Train with N processes of this machine (docs/processes.md).")
]
MaxRestarts = Annotated[
    int,
    Option("--max-restarts", help="With --processes: begin again after a lost one, N times."),
]


def train_together(processes: int, max_restarts: int, config: RunConfig) -> None:
    """Run this command again in several processes, and exit as they do.

    Returns in one of them, or where one is all.
    """
    if "PLAINFIT_LAUNCHER" in os.environ:
        return
    check(processes, max_restarts, config)
    if processes == 1:
        return
    env = os.environ | {
        "PLAINFIT_LAUNCHER": str(os.getpid()),
        "TORCHELASTIC_RUN_ID": uuid.uuid4().hex,
        "WORLD_SIZE": str(processes),
    }
    loopback = [name for _, name in socket.if_nameindex() if name.startswith("lo")]
    if loopback:  # else gloo asks for the address of this machine's name, which may have none
        env.setdefault("GLOO_SOCKET_IFNAME", loopback[0])
    env.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    with signals_kept() as received:
        for restart in range(max_restarts + 1):
            with TemporaryDirectory(prefix="plainfit-") as folder:
                env |= {"PLAINFIT_JOB": folder, "TORCHELASTIC_RESTART_COUNT": str(restart)}
                ranks = map(str, range(processes))
                workers = [started(env | {"RANK": rank, "LOCAL_RANK": rank}) for rank in ranks]
                failed = ended(workers, received)
                code, why = outcome(workers, failed, Path(folder), bool(received))
            if received or code in (0, BAD_INPUT, *STOPPED):
                break
            if restart < max_restarts:
                last = f"restart {restart + 1} of {max_restarts} goes on from the last checkpoint"
                show(f"note   {why.partition('; ')[0]}; {last}", sys.stderr)
    if why:
        show(f"error: {why}", sys.stderr)
    raise Exit(128 + received[0] if received and code and not why else code)


def check(processes: int, max_restarts: int, config: RunConfig) -> None:
    check_values({"processes": processes, "max_restarts": max_restarts}, LIMITS)
    if processes == 1:
        if max_restarts:
            raise ConfigError("is for --processes: leave it out", field="max_restarts")
        return
    if "WORLD_SIZE" in os.environ:
        raise ConfigError(
            "starts processes itself, and torchrun has started this one: leave it out",
            field="processes",
        )
    shards = config.shards or SHARDS
    if config.reduce == "exact" and shards < processes:
        raise ConfigError(f"must be at most --shards, {shards}, got {processes}", field="processes")


def started(env: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a process, in a session of its own: Ctrl-C on the terminal comes by the launcher."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "plainfit", *sys.argv[1:]],
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=None if env["RANK"] == "0" else subprocess.DEVNULL,
        start_new_session=True,
    )


@contextmanager
def signals_kept() -> Iterator[list[int]]:
    """Collect the numbers of Ctrl-C and SIGTERM, unless they are ignored."""
    received: list[int] = []

    def keep(number: int, frame: FrameType | None) -> None:
        received.append(number)

    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    ours = [n for n, handler in before.items() if handler is not signal.SIG_IGN]
    for number in ours:
        signal.signal(number, keep)
    try:
        yield received
    finally:
        for number in ours:
            signal.signal(number, before[number])


def ended(workers: Sequence[Any], received: list[int]) -> dict[int, int]:
    """Wait until all have ended; return the exit codes of those that have failed first.

    Once one has failed, the others notice, and are killed if they do not end; likewise after a
    second signal. After the first one they have all the time that they need to save the training.
    """
    failed: dict[int, int] = {}
    sent, deadline = 0, math.inf
    while any(worker.poll() is None for worker in workers):
        time.sleep(0.05)
        signals = received[sent:]
        sent += len(signals)
        failed = failed or failures(workers)
        is_lost = failed and not received and not {*failed.values()} & {*STOPPED}
        if deadline == math.inf and (is_lost or sent > 1):
            deadline = time.monotonic() + GRACE
        for worker in workers:
            for number in signals:
                worker.send_signal(number)
            if time.monotonic() > deadline:
                worker.kill()
    return failed or failures(workers)


def failures(workers: Sequence[Any]) -> dict[int, int]:
    return {rank: code for rank, worker in enumerate(workers) if (code := worker.poll())}


def outcome(
    workers: Sequence[Any], failed: dict[int, int], folder: Path, is_stopped: bool
) -> tuple[int, str]:
    """Return the exit code of all, and why the first process has failed."""
    if not failed:
        return 0, ""
    rank, code = min(failed.items(), key=itemgetter(1))
    told = {int(p.name.partition("-")[2]): p.read_text("utf-8") for p in sorted(folder.glob("*-*"))}
    if code < 0 and not is_stopped:  # what the others have told came of it
        return 128 - code, f"process {rank} was ended by {signal.Signals(-code).name}"
    if told:  # by time
        rank, why = next(iter(told.items()))
        where = "" if told.get(0) == why else f"in process {rank}: "
        return max(workers[rank].poll(), FAILED), where + why
    return code, "" if is_stopped or code in STOPPED else f"process {rank} ended with code {code}"

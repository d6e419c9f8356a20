"""Trainings on several processes: forks of one that has loaded torch, which takes no time."""

import os
import pickle
import signal
import socket
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist

from killing import ended, forked

SECONDS = 60.0  # within which all must have ended


def on_processes(world: int, work: Callable[[], Any], seconds: float = SECONDS) -> list[Any]:
    """Run a function in so many processes that train together; return what each of them does.

    They are launched as by `torchrun`, but that their group is there already: a fork needs no port.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def of_rank(rank: int) -> None:
            os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world))
            if world > 1:
                os.environ["GLOO_SOCKET_IFNAME"] = LOOPBACK
                dist.init_process_group(
                    "gloo",
                    init_method=f"file://{folder / 'store'}",
                    rank=rank,
                    world_size=world,
                    timeout=timedelta(seconds=seconds),
                )
            (folder / f"{rank}.result").write_bytes(pickle.dumps(work()))
            if world > 1:
                dist.barrier()  # one that ends at once breaks what another still sends
                dist.destroy_process_group()

        errors = [folder / f"{rank}.error" for rank in range(world)]
        children = [
            forked(lambda rank=rank: of_rank(rank), error) for rank, error in enumerate(errors)
        ]
        until = time.monotonic() + seconds
        try:
            codes = [ended(child, max(0.1, until - time.monotonic())) for child in children]
        finally:
            for child in children:
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
                with suppress(ChildProcessError):
                    os.waitpid(child, 0)
        # The first one is the cause, and that one is lost an error of the others.
        raised = sorted((e for e in errors if e.exists()), key=lambda e: e.stat().st_mtime_ns)
        assert codes == [0] * world, raised[0].read_text() if raised else codes
        paths = [folder / f"{rank}.result" for rank in range(world)]
        return [pickle.loads(path.read_bytes()) for path in paths]


LOOPBACK = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))

"""`--processes N`: the same command in N processes of this machine, by `torch.distributed.run`."""

import logging
import os
import sys
import uuid
from typing import Annotated

from typer import Exit, Option

Processes = Annotated[
    int,
    Option(
        "--processes",
        min=1,
        max=1024,
        help="Train with N processes of this machine (docs/processes.md).",
    ),
]
MaxRestarts = Annotated[
    int,
    Option(
        "--max-restarts", min=0, help="With --processes: begin again after a lost one, N times."
    ),
]


def train_together(processes: int, max_restarts: int) -> None:
    """Run this command again in several processes, and exit as they do.

    Returns in one of them, or where one is all.
    """
    if processes == 1 or "RANK" in os.environ:
        return
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=max_restarts,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "plainfit", *sys.argv[1:])
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        raise Exit(failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode) from None
    except SignalException as error:
        raise Exit(128 + error.sigval) from None
    raise Exit

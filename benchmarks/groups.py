"""Processes that train together when they are asked to, and say how long it took.

They are started once, as this program, and wait between their turns.
"""

import hashlib
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from hosts import Link
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import TensorDataset

import plainfit as pf
from data import synthetic
from plainfit.data.pieces import Shards
from plainfit.training import pairwise, sharding
from plainfit.training.processes import join

WARM_UP = 5  # steps before those that count


class Stopwatch(pf.Callback):
    """When each step ended, and the seconds of exchanges and sums after the warm-up."""

    observer = True

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.seconds: Counter[str] = Counter()

    def on_step_end(self, context: Any = None) -> None:
        """Note the time."""
        self.ends.append(time.perf_counter())
        if len(self.ends) == WARM_UP:
            self.seconds.clear()

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, whose seconds count."""

        def wrapper(*args: Any, **options: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args, **options)
            finally:
                self.seconds[name] += time.perf_counter() - began

        return wrapper


WATCH = Stopwatch()


class TimedSum(pairwise.PairwiseSum):
    """The sum over the pieces of a process, whose seconds count."""

    add = WATCH.timed("sums", pairwise.PairwiseSum.add)


def watch_exchanges() -> None:
    """Count the seconds of what `Sharding` calls."""
    for name in ("all_reduce", "all_to_all_single", "all_gather"):
        setattr(dist, name, WATCH.timed("exchange", getattr(dist, name)))
    for name in ("flat", "unflat", "summed"):
        setattr(sharding, name, WATCH.timed("sums", getattr(sharding, name)))
    sharding.PairwiseSum = TimedSum


def built(name: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Return a model and its optimizer, the same in every process."""
    torch.manual_seed(0)
    if name != "mlp":
        return pf.get_model(name.split(",")[0], lr=0.01, momentum=0.9, device="cpu")
    layers = [nn.Linear(784, 768), nn.ReLU(), nn.Linear(768, 512), nn.ReLU(), nn.Linear(512, 10)]
    model = nn.Sequential(nn.Flatten(), *layers)
    return model, torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)


DATA: list[torch.Tensor] = []


def train(name: str, bs: int, way: dict[str, Any], steps: int) -> dict[str, Any]:
    """Train; return the seconds of a step, what of it was exchange and sums, and the weights."""
    if not DATA:
        x, y = map(torch.from_numpy, synthetic(8192, 1)["train"])
        DATA.extend([x.unsqueeze(1).float().div_(256), y])
    torch.set_num_threads(way.get("threads", 1))
    model, opt = built(name)
    count = WARM_UP + steps
    WATCH.ends.clear()
    if way.get("by_hand"):
        by_hand(model, opt, bs, count)
    else:
        options = {key: way[key] for key in ("shards", "reduce") if key in way}
        train_dl, _ = pf.get_data(TensorDataset(*DATA), None, bs)
        options |= {"max_steps": count, "callbacks": [WATCH], "echo": None}
        pf.fit(None, model, F.cross_entropy, opt, train_dl, **options)
    digest = hashlib.sha256()
    for value in model.state_dict().values():
        digest.update(value.numpy().tobytes())
    exchange, sums = WATCH.seconds["exchange"], WATCH.seconds["sums"]
    return {
        "step": (WATCH.ends[-1] - WATCH.ends[WARM_UP - 1]) / steps if WATCH.ends else 0.0,
        "exchange": exchange / steps,
        "sums": max(0.0, sums - exchange) / steps,
        "weights": digest.hexdigest(),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }


def by_hand(model: nn.Module, opt: torch.optim.Optimizer, bs: int, count: int) -> None:
    """Train on this process's share of each batch by the plainest loop."""
    copy, (x, y) = DistributedDataParallel(model), DATA
    epochs = -(-count * bs // len(x))
    rows = torch.cat([torch.randperm(len(x)) for _ in range(epochs)])
    for batch in rows.split(bs)[:count]:
        mine = batch.tensor_split(dist.get_world_size())[dist.get_rank()]
        F.cross_entropy(copy(x[mine]), y[mine]).backward()
        opt.step()
        opt.zero_grad()
        WATCH.on_step_end()


def exchange(way: str, size: int, count: int) -> dict[str, Any]:
    """Return the seconds of an exchange of so many bytes, in a training with `count` shards."""
    world, values, seconds = dist.get_world_size(), torch.zeros(size // 4), []
    shards = Shards(count, dist.get_rank(), world)
    owned = [pairwise.nodes_of(shards.of(rank)) for rank in range(world)]
    for _ in range(2 + max(4, min(20, 2**22 // size))):
        began = time.perf_counter()
        if way == "fast":
            dist.all_reduce(values)
        else:
            pairwise.exchanged([values], owned, 1, shards)
        seconds.append(time.perf_counter() - began)
    return {"seconds": statistics.median(seconds[2:])}


def serve() -> None:
    """Do what the lines of the input ask for, as one process of a group."""
    sys.stdin.readline()  # until the network is there
    place = join()
    watch_exchanges()
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        answer = {"train": train, "exchange": exchange}[name](*arguments)
        if place.rank == 0:
            print(json.dumps(answer), flush=True)


class Group:
    """Processes that train together, when they are asked to.

    Args:
        world: how many.
        link: the network of hosts of their own, if they have any.
    """

    def __init__(self, world: int, link: Link | None = None) -> None:
        self.world, host, within = world, "127.0.0.1", []
        if link:
            host, within = f"10.0.{world}.1", ["unshare", "--net"]
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.processes = []
        for rank in range(world):
            env = os.environ | {"MASTER_ADDR": host, "MASTER_PORT": str(port)}
            env |= {"GLOO_SOCKET_IFNAME": "wire" if link else "lo", "PLAINFIT_TIMEOUT": "60"}
            env |= {"TORCH_CPP_LOG_LEVEL": "ERROR", "PYTHONWARNINGS": "ignore::FutureWarning"}
            if world > 1:
                env |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
            self.processes.append(
                subprocess.Popen(
                    [*within, sys.executable, __file__],
                    env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                )
            )  # fmt: skip
            if link:
                link.join_host(self.processes[-1].pid, f"10.0.{world}.{rank + 1}")
        self.tell("begin")

    def tell(self, line: str) -> None:
        """Write a line to each process."""
        for process in self.processes:
            process.stdin.write(f"{line}\n")
            process.stdin.flush()

    def ask(self, *what: Any) -> dict[str, Any]:
        """Let all do something; return what the first one says of it."""
        self.tell(json.dumps(what))
        line = self.processes[0].stdout.readline()
        if not line:
            raise SystemExit(f"a group of {self.world} processes has ended in {what}: see above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the processes."""
        for process in self.processes:
            process.stdin.close()
        for process in self.processes:
            process.wait(60)


if __name__ == "__main__":
    serve()

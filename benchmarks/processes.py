"""What several processes cost: steps, the exchange of gradients, and what it takes on a network.

    python benchmarks/processes.py [--rounds 5] [--hosts]

Each number of processes is a group that is started once and waits between its turns, so all ways
to train take turns on the same machine. `--hosts` gives each process a network namespace of its
own, and joins them by a network of limited rate and delay; it needs root, and Linux with TUN.
"""

import argparse
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from groups import Group
from hosts import Link
from results import FOLDER, save_section

from plainfit.data.pieces import Shards
from plainfit.training.pairwise import nodes_of
from report import markdown_table

SHARDS = 8
WORK = {  # the size of a batch, and the steps of a turn
    "logistic": (64, 150),
    "cnn": (64, 50),
    "cnn, batch 512": (512, 12),
    "mlp": (256, 20),
}
WAYS: dict[str, dict[str, Any]] = {
    "1 process, a thread for each core": {"threads": os.cpu_count()},
    "1 process, 1 thread": {},
    "1 process, `shards=8`": {"shards": SHARDS},
    "2 processes, exact": {"world": 2, "shards": SHARDS},
    "2 processes, fast": {"world": 2, "reduce": "fast"},
    "2 processes, DDP by hand": {"world": 2, "by_hand": True},
    "4 processes, exact": {"world": 4, "shards": SHARDS},
    "4 processes, fast": {"world": 4, "reduce": "fast"},
    "4 processes, DDP by hand": {"world": 4, "by_hand": True},
}
SIZES, WORLDS = (2**10, 2**16, 2**20, 2**24), (2, 4, 8)  # bytes that are exchanged
HOSTS = (2, 3, 4)
RATE, DELAY = 1e9, 1e-3  # of the network between hosts: bit/s, seconds one way
RATES, LATENCY = (1e9, 1e10, 1e11), 50e-6  # of the networks that are predicted
RANKS, LARGE = (2, 3, 8, 32, 96, 128, 512, 1000, 1024), 100_000_000
ALL_SHARDS = 1024  # so many of the trainings that are predicted

TEXT = f"""\
µs of a step of `fit` on images of 28x28 in memory, by SGD with momentum; the MLP has
{{parameters:,}} parameters and batches of {WORK["mlp"][0]}, the others batches of 64 where the row
says nothing else. Every process has one thread unless the row says more. Medians of {{rounds}}
rounds, in which each way takes its turn; *speed* is the first row's time over this one's, within a
round: the median, and the range.
*Exchange* is the share of a step in torch's collectives, waiting for the slowest process included;
*sums* is that of copies into one tensor and of additions in the fixed order. DDP by hand is the
plainest loop with `DistributedDataParallel`, whose exchange goes on during the backward pass. All
exact rows of a model ended with the same bits. The machine has {{cores}} cores; 4 processes share
them where they are fewer."""
EXCHANGE = """\
What the exchange of one tensor takes, over loopback: `fast` is gloo's all-reduce, `exact` is
all-to-all, additions in the fixed order, and all-gather, as three and more processes do it (two,
with a sum each, take the all-reduce). ms, medians of {rounds} rounds."""
HOSTS_TEXT = f"""\
Hosts of their own, network namespaces on this machine's {{cores}} cores, with {RATE / 1e9:g} Gbit/s
and {DELAY * 1e3:g} ms one way between them: ms of a step of the MLP, and of its exchange, measured
and by the model below."""
MODEL = f"""\
The model. A rank of w sends (k + 1)(w - 1)/w times the bytes of the gradients in `exact`, where
k is the number of sums that a rank has of its pieces: 1 if its pieces are a whole subtree (the
shards are the ranks times a power of two), more otherwise. In `fast` it sends 2(w - 1)/w times
these bytes. Messages that wait for each other: w in `exact` (gloo's all-to-all sends all at once,
its all-gather is a ring), 2(w - 1) in `fast` (a ring); for two ranks both are the all-reduce. A
message takes the latency and {{message:.0f}} µs, and a byte its time on the network, or
{{byte:.2f}} ns if that is more; both constants are of two processes and the all-reduce above.
Copies and additions of `exact`, *sums* in the first table, come on top.
NCCL, which has trees besides rings, is not modelled.

The table has ms of an exchange, float32, at {LATENCY * 1e6:.0f} µs latency, for a training with
{ALL_SHARDS:,} shards. A step takes what its rank computes, and this. 10 and 100 Gbit/s are alike
where gloo is slower than the network.

{{verdict}}"""
VERDICT = f"""\
For `exact` to add at most a tenth, a step must compute at least ten times as long as its exchange:
{{needs}}. It stops being affordable in three cases. A small model on many ranks: above
{{waits:,.0f}} ranks at 10 Gbit/s the messages of {{parameters:,.0f}} M parameters wait longer for
each other than their bytes take. A large model on a slow network: there `fast` takes as long, and
DDP hides at most the time of the backward pass. And ranks whose pieces are no subtree: 3 ranks of
{ALL_SHARDS:,} shards send {{odd:.1f}} times as much as in `fast`; as many shards as ranks, times a
power of two, send no more than `fast`."""


def take_turns(
    groups: dict[int, Group], tasks: dict[Any, tuple[int, tuple[Any, ...]]], rounds: int
) -> dict[Any, list[dict[str, Any]]]:
    """Return the answers to all tasks, of which each is a group and what it is asked."""
    found: dict[Any, list[dict[str, Any]]] = {task: [] for task in tasks}
    for number in range(rounds):
        print(f"{time.strftime('%X')}  round {number + 1} of {rounds}", file=sys.stderr)
        for at in range(len(tasks)):
            task = [*tasks][(at + 3 * number) % len(tasks)]
            world, what = tasks[task]
            found[task].append(groups[world].ask(*what))
    return found


def median(answers: list[dict[str, Any]], key: str) -> float:
    """Return the median of a figure."""
    return statistics.median(answer[key] for answer in answers)


def way_rows(answers: dict[Any, list[dict[str, Any]]]) -> list[list[Any]]:
    """Return a row for each way to train a model.

    Raises:
        SystemExit: if ways that are exact have given other weights.
    """
    rows = []
    for name in dict.fromkeys(name for name, _ in answers):
        exact = [a for (n, way), a in answers.items() if n == name and "shards" in WAYS[way]]
        if len({answer["weights"] for mine in exact for answer in mine}) != 1:
            raise SystemExit(f"exact trainings of {name} have given different weights")
        [base, *_] = [mine for (n, _), mine in answers.items() if n == name]
        for way, mine in ((way, mine) for (n, way), mine in answers.items() if n == name):
            ratios = [b["step"] / m["step"] for b, m in zip(base, mine, strict=True)]
            step = median(mine, "step")
            shares = [f"{median(mine, key) / step:.0%}" for key in ("exchange", "sums")]
            if not {"shards", "reduce"} & {*WAYS[way]}:
                shares = ["", ""]
            span = f"{min(ratios):.2f} to {max(ratios):.2f}"
            ratio = f"{statistics.median(ratios):.2f}"
            rows.append([f"{name}: {way}", f"{step * 1e6:,.0f}", ratio, span, *shares])
    return rows


def load(world: int, shards: int, is_fast: bool) -> tuple[int, float]:
    """Return how many messages wait for each other, and the bytes sent as times the gradients'."""
    owned = [nodes_of(Shards(shards, rank, world).mine) for rank in range(world)]
    sums = max(map(len, owned))
    if is_fast or (world == 2 and sums == 1):
        return 2 * (world - 1), 2 * (world - 1) / world
    return world, (sums + 1) * (world - 1) / world


class Model:
    """What an exchange takes on a network.

    Args:
        message: seconds of a message besides the latency.
        byte: seconds of a byte at the least.
    """

    def __init__(self, message: float, byte: float) -> None:
        self.message, self.byte = message, byte

    def seconds(
        self, size: int, loaded: tuple[int, float], rate: float, latency: float = LATENCY
    ) -> float:
        """Return the seconds of an exchange of gradients of so many bytes."""
        messages, times = loaded
        return messages * (latency + self.message) + size * times * max(8 / rate, self.byte)

    def rows(self, parameters: int) -> list[list[Any]]:
        """Return a row for each number of ranks, for a small and a large model."""
        rows = []
        for count in (parameters, LARGE):
            for ranks in RANKS:
                exact, fast = (load(ranks, ALL_SHARDS, is_fast) for is_fast in (False, True))
                cells = [f"{ranks:,}", f"{exact[0]:,}", 4e-6 * count * exact[1]]
                for loaded in (exact, fast):
                    cells += [self.seconds(4 * count, loaded, rate) * 1e3 for rate in RATES]
                rows.append([f"{count / 1e6:,.0f} M", *cells])
        return rows

    def verdict(self, parameters: int) -> str:
        """Say where `exact` stops being affordable."""
        needs = []
        for count, rate in ((parameters, RATES[0]), (parameters, RATES[1]), (LARGE, RATES[1])):
            at_least = ", ".join(
                f"{self.seconds(4 * count, load(ranks, ranks, False), rate) * 10:.2g} s "
                f"on {ranks:,}"
                for ranks in (8, 64, 1024)
            )
            name = f"{count / 1e6:,.0f} M parameters at {rate / 1e9:g} Gbit/s"
            needs.append(f"{name}, {at_least} ranks")
        per_byte = max(8 / RATES[1], self.byte)
        waits = 8 * parameters * per_byte / (LATENCY + self.message)
        odd = load(3, ALL_SHARDS, False)[1] / load(3, ALL_SHARDS, True)[1]
        return VERDICT.format(
            needs="; ".join(needs), waits=waits, odd=odd, parameters=parameters / 1e6
        )


def measure_hosts(rounds: int, model: Model) -> str:
    """Return the text and the table of hosts with a network of their own."""
    try:
        link = Link(RATE, DELAY)
    except OSError as error:
        return f"Hosts of their own were not measured: {error}."
    groups = {world: Group(world, link) for world in HOSTS} | {1: Group(1)}
    ways = {"1 process, 1 thread": {}} | {
        f"{world} hosts, {kind}": {"world": world} | options
        for world in HOSTS
        for kind, options in {"exact": {"shards": SHARDS}, "fast": {"reduce": "fast"}}.items()
    }
    tasks = {
        name: (way.get("world", 1), ("train", "mlp", WORK["mlp"][0], way, 10))
        for name, way in ways.items()
    }
    answers = take_turns(groups, tasks, rounds)
    rows = []
    for name, way in ways.items():
        mine, size = answers[name], 4 * int(answers[name][0]["parameters"])
        cells = [f"{median(mine, 'step') * 1e3:.1f}", "", ""]
        if "world" in way:
            loaded = load(way["world"], SHARDS, "reduce" in way)
            predicted = model.seconds(size, loaded, RATE, DELAY)
            cells[1:] = [f"{median(mine, 'exchange') * 1e3:.1f}", f"{predicted * 1e3:.1f}"]
        rows.append([name, *cells])
    for group in groups.values():
        group.close()
    columns = ["", "step, ms", "of it exchange, ms", "by the model, ms"]
    text = HOSTS_TEXT.format(cores=os.cpu_count())
    return f"{text}\n\n{markdown_table(columns, rows).rstrip()}"


def main(argv: list[str] | None = None) -> None:
    """Measure, save the section and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, help="of a turn, for a try")
    parser.add_argument("--hosts", action="store_true", help="with a network between hosts")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the section goes")
    args = parser.parse_args(argv)
    cores = os.cpu_count()
    groups = {world: Group(world) for world in (1, *WORLDS)}
    tasks = {
        (name, way): (options.get("world", 1), ("train", name, bs, options, args.steps or steps))
        for name, (bs, steps) in WORK.items()
        for way, options in WAYS.items()
    }
    answers = take_turns(groups, tasks, args.rounds)
    sends = {
        (size, world, way): (world, ("exchange", way, size, SHARDS))
        for size in SIZES
        for world in WORLDS
        for way in ("fast", "exact")
    }
    sent = {key: median(all_, "seconds") for key, all_ in take_turns(groups, sends, 3).items()}
    for group in groups.values():
        group.close()
    small, large = (sent[size, 2, "fast"] for size in (SIZES[0], SIZES[-1]))
    model = Model(small / 2, (large - small) / SIZES[-1])
    parameters = int(answers["mlp", next(iter(WAYS))][0]["parameters"])
    ways = ["", "µs/step", "speed", "range", "exchange", "sums"]
    columns = ["KiB", *(f"{world} processes, {w}" for world in WORLDS for w in ("fast", "exact"))]
    cells = [
        [
            f"{size // 1024:,}",
            *(sent[size, w, way] * 1e3 for w in WORLDS for way in ("fast", "exact")),
        ]
        for size in SIZES
    ]
    parts = [
        TEXT.format(parameters=parameters, rounds=args.rounds, cores=cores),
        markdown_table(ways, way_rows(answers)).rstrip(),
        EXCHANGE.format(rounds=3),
        markdown_table(columns, cells).rstrip(),
        *([measure_hosts(args.rounds, model)] if args.hosts else []),
        MODEL.format(
            message=model.message * 1e6, byte=model.byte * 1e9, verdict=model.verdict(parameters)
        ),
    ]
    gbits = [f"{rate / 1e9:g} Gbit/s" for rate in RATES]
    heads = ["parameters", "ranks", "messages", "MB sent by a rank"]
    heads += [f"{way}, {gbit}" for way in ("exact", "fast") for gbit in gbits]
    rows = model.rows(parameters)
    raw = {" ".join(map(str, key)): mine for key, mine in answers.items()}
    path = save_section(
        "processes", "Several processes", "\n\n".join(parts), heads, rows, raw=raw,
        folder=args.folder,
    )  # fmt: skip
    print("### Several processes", *parts, markdown_table(heads, rows), path, sep="\n\n")


if __name__ == "__main__":
    main()

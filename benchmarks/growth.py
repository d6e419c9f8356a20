"""How time and memory grow with the rows, and whether a step costs the same after 100,000 of them.

    python benchmarks/growth.py [--rows 10000 100000 1000000] [--sources memory npy arrow]

Logistic regression on made-up rows of 64 float32, in batches of 1,024, by `get_data` and `fit`.
Every size and source is a process of its own, so that its memory is its own. The data go to a
temporary folder (`TMPDIR`), 10,000,000 rows and their Arrow table to 7.5 GB, and are removed.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import machine
import numpy as np
import torch
import torch.nn.functional as F
from numpy.lib.format import open_memmap
from results import save_section
from torch.utils.data import TensorDataset

import plainfit as pf
from plainfit.common.seeding import epoch_order

SIZES, SOURCES = (10_000, 100_000, 1_000_000, 10_000_000), ("memory", "npy", "arrow")
FEATURES, CLASSES, BATCH_SIZE, BLOCK = 64, 10, 1024, 2**16
FLAT_STEPS, FLAT_EPOCHS, FLAT_BATCH = 100_000, 100, 64
BUDGETS = {"memory": 2**30, "npy": 0, "arrow": 0}  # MiB: all in memory, or nothing
TEXT = f"""\
Logistic regression on rows of {FEATURES} float32, in batches of {BATCH_SIZE:,}, each line a process
of its own. `npy` and `arrow` are read from disk with `memory_budget=0`, with their files in the
page cache; `memory` is the same files with room for all. Opening reads and checks every value. The
first batch is that of a new epoch, with the order of all rows, `torch.randperm`, in it."""
COLUMNS = {
    "rows": "rows", "source": "source", "open_seconds": "open, s",
    "first_batch_milliseconds": "first batch, ms", "order_milliseconds": "of it the order, ms",
    "epoch_seconds": "epoch, s", "microseconds_per_step": "step, µs",
    "nanoseconds_per_row": "row, ns", "opening_rss_mib": "most allocated: opening, MiB",
    "training_rss_mib": "training, MiB",
}  # fmt: skip


def write_rows(folder: Path, count: int) -> None:
    """Write x.npy, float32 (count, 64), and y.npy, int64 (count,), some rows at a time."""
    random = np.random.default_rng(0)
    weights = random.standard_normal((FEATURES, CLASSES), np.float32)
    x = open_memmap(folder / "x.npy", "w+", np.float32, (count, FEATURES))
    y = open_memmap(folder / "y.npy", "w+", np.int64, (count,))
    for first in range(0, count, BLOCK):
        block = random.standard_normal((min(BLOCK, count - first), FEATURES), np.float32)
        x[first : first + BLOCK] = block
        y[first : first + BLOCK] = (block @ weights).argmax(axis=1)
    x.flush()


def write_arrow(folder: Path) -> None:
    """Write the same rows as table.arrow, a column a feature."""
    import pyarrow as pa

    x, y = np.load(folder / "x.npy", mmap_mode="r"), np.load(folder / "y.npy")
    kinds = [(f"x{at}", pa.float32()) for at in range(FEATURES)]
    schema = pa.schema([*kinds, ("y", pa.int64())])
    with pa.OSFile(str(folder / "table.arrow"), "wb") as file, pa.ipc.new_file(file, schema) as out:
        for first in range(0, len(y), BLOCK):
            block = [pa.array(column) for column in x[first : first + BLOCK].T.copy()]
            columns = [*block, pa.array(y[first : first + BLOCK])]
            out.write_batch(pa.record_batch(columns, schema=schema))


def measure(folder: Path, source: str) -> dict[str, Any]:
    """Open the data and train on them in this process; return what that took."""
    allocated = PeakMemory()
    start = time.perf_counter()
    path = folder / "table.arrow" if source == "arrow" else folder
    data = pf.open_data(path, memory_budget=BUDGETS[source])
    opened, opening_rss = time.perf_counter() - start, allocated.take()
    start = time.perf_counter()
    _ = data.fingerprint
    hashed = time.perf_counter() - start
    start = time.perf_counter()
    train_dl, valid_dl = pf.get_data(data.train, data.valid, bs=BATCH_SIZE)
    made = time.perf_counter()
    next(iter(train_dl))
    first_batch = time.perf_counter()
    epoch_order(len(data.train), 0, 0, True)
    ordered = time.perf_counter()
    rows = sum(data.counts().values())
    model, opt = pf.get_model(
        "logistic", lr=0.1, input_shape=data.input_shape, classes=CLASSES, device="cpu"
    )
    epochs = 1 + min(50, max(2, 3_000_000 // rows))
    history = pf.fit(epochs, model, F.cross_entropy, opt, train_dl, valid_dl, echo=None)
    later, n = history.epochs[1:], len(data.train)
    training_rss = allocated.take()
    epoch = statistics.median(row["seconds"] for row in later)
    trained = statistics.median(n / row["samples_per_second"] for row in later)
    return {
        "rows": rows,
        "source": source,
        "epoch_seconds": epoch,
        "microseconds_per_step": 1e6 * trained / len(train_dl),
        "nanoseconds_per_row": 1e9 * trained / n,
        "open_seconds": opened,
        "fingerprint_seconds": hashed,
        "get_data_milliseconds": 1e3 * (made - start),
        "first_batch_milliseconds": 1e3 * (first_batch - made),
        "order_milliseconds": 1e3 * (ordered - first_batch),
        "opening_rss_mib": opening_rss,
        "training_rss_mib": training_rss,
        "peak_rss_mib": max(opening_rss, training_rss),
        "train_loss": later[-1]["train_loss"],
    }


class Clock(pf.Callback):
    """Notes when each step ended, and the memory after a tenth of them."""

    def __init__(self) -> None:
        self.ended = np.zeros(FLAT_STEPS)
        self.early_rss = 0.0

    def on_step_end(self, context: Any) -> None:
        """Note the time."""
        self.ended[context.global_step - 1] = time.perf_counter()
        if context.global_step == FLAT_STEPS // 10:
            self.early_rss = memory("VmRSS")


def measure_flat() -> dict[str, float]:
    """Take 100,000 small steps; compare the first tenth's with the last tenth's.

    On one thread: with two, steps changed between 221 and 247 µs at any time, for minutes.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x = torch.randn(FLAT_STEPS // FLAT_EPOCHS * FLAT_BATCH, FEATURES)
    data = TensorDataset(x, (x[:, :CLASSES]).argmax(1))
    train_dl, valid_dl = pf.get_data(data, TensorDataset(*data[:FLAT_BATCH]), bs=FLAT_BATCH)
    model, opt = pf.get_model(
        "logistic", lr=0.1, input_shape=(FEATURES,), classes=CLASSES, device="cpu"
    )
    clock = Clock()
    pf.fit(
        FLAT_EPOCHS, model, F.cross_entropy, opt, train_dl, valid_dl, callbacks=[clock], echo=None
    )
    took = np.diff(clock.ended.reshape(FLAT_EPOCHS, -1), axis=1)  # without validations
    tenth = FLAT_EPOCHS // 10
    first, last = (1e6 * float(np.median(part)) for part in (took[:tenth], took[-tenth:]))
    return {
        "steps": FLAT_STEPS,
        "first_tenth_microseconds": first,
        "last_tenth_microseconds": last,
        "ratio": last / first,
        "rss_growth_mib": memory("VmRSS") - clock.early_rss,
    }


def memory(field: str) -> float:
    """Return a line of /proc/self/status, such as VmRSS or RssAnon, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


class PeakMemory(threading.Thread):
    """Samples the memory that this process allocated: mapped files are the kernel's page cache."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0.0
        self.start()

    def run(self) -> None:
        """Sample every 20 ms."""
        while True:
            self.peak = max(self.peak, memory("RssAnon"))
            time.sleep(0.02)

    def take(self) -> float:
        """Return the peak in MiB, and start again."""
        peak, self.peak = max(self.peak, memory("RssAnon")), 0.0
        return peak


def in_own_process(*arguments: str) -> dict[str, Any]:
    """Run a part of this program, and return what it printed."""
    command = [sys.executable, __file__, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def add_linearity(rows: list[dict[str, Any]]) -> None:
    """Add each row's time for a row of data, relative to that of the source's largest size."""
    largest = {row["source"]: row for row in sorted(rows, key=lambda row: row["rows"])}
    for row in rows:
        per_row = row["nanoseconds_per_row"]
        row["relative_to_largest"] = per_row / largest[row["source"]]["nanoseconds_per_row"]


def main() -> None:
    """Measure what was asked for, save it and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=SIZES)
    parser.add_argument("--sources", nargs="+", default=SOURCES, choices=SOURCES)
    parser.add_argument("--measure", nargs=2, metavar=("FOLDER", "SOURCE"), help="one of them")
    parser.add_argument("--flat", action="store_true", help="the 100,000 steps only")
    asked = parser.parse_args()
    if asked.measure or asked.flat:
        source = asked.measure
        print(json.dumps(measure(Path(source[0]), source[1]) if source else measure_flat()))
        return
    rows = []
    for count in asked.rows:
        with tempfile.TemporaryDirectory() as name:
            write_rows(Path(name), count)
            if "arrow" in asked.sources:
                write_arrow(Path(name))
            for source in asked.sources:
                rows.append(in_own_process("--measure", name, source))
                print(json.dumps(rows[-1]), file=sys.stderr)
    add_linearity(rows)
    flat = in_own_process("--flat")
    steps = (
        f"Over {flat['steps']:,} steps of {FLAT_BATCH} rows on one thread, the median step took "
        f"{flat['first_tenth_microseconds']:.1f} µs in the first tenth and "
        f"{flat['last_tenth_microseconds']:.1f} µs in the last; the process's memory grew by "
        f"{flat['rss_growth_mib']:.1f} MiB meanwhile."
    )
    raw = {"machine": machine.describe(), "rows": rows, "flat": flat}
    cells = [[row[key] for key in COLUMNS] for row in rows]
    text = f"{TEXT}\n\n{steps}"
    path = save_section("growth", "Growth", text, list(COLUMNS.values()), cells, raw=raw)
    print(*("\t".join(map(str, line)) for line in [COLUMNS.values(), *cells]), steps, sep="\n")
    print(path)


if __name__ == "__main__":
    main()

"""How long `open_data` takes for a CSV file of mixed columns, beside pandas' own read.

    python benchmarks/tables.py [--rows 10000 1000000]

Each read is a process of its own, so that its memory is its own, with the file in the page cache.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from results import save_section

SIZES, ROUNDS = (10_000, 1_000_000), 3
TEXT = f"""\
A CSV file of 50 columns and a target: 20 of decimal numbers, half of them with gaps, 10 of whole
numbers, 8 of categories, 5 of dates, 5 of true and false, and 2 of codes, one with zeros in front.
`pandas` is `pandas.read_csv` alone; `open_data` also guesses and checks, draws the parts, learns
from the training rows and makes the float32 inputs. The least of {ROUNDS} times, each in a process
of its own after its imports, with the file in the page cache. Memory is the most that was resident,
less that after the imports."""
COLUMNS = {
    "rows": "rows", "file": "file, MiB", "inputs": "inputs, MiB", "pandas": "pandas, s",
    "open_data": "open_data, s", "fingerprint": "then its fingerprint, s",
    "pandas_mib": "pandas, MiB", "open_data_mib": "open_data, MiB",
}  # fmt: skip


def write_table(path: Path, count: int) -> None:
    """Write the table, mixed as tables are."""
    import pyarrow as pa
    from pyarrow import csv

    draw = np.random.default_rng(0)
    table = {}
    for at in range(20):
        gaps = draw.random(count) < 0.05 if at % 2 else None
        table[f"decimal_{at}"] = pa.array(draw.normal(50, 20, count).round(3), mask=gaps)
    for at in range(10):
        table[f"whole_{at}"] = pa.array(draw.integers(0, 10 ** (at % 5 + 1), count))
    for at in range(8):
        texts = pa.array([f"kind {letter}" for letter in "abcdefghij"[: at + 3]])
        table[f"category_{at}"] = texts.take(pa.array(draw.integers(0, at + 3, count)))
    days = draw.integers(10_000, 20_000, (5, count)).astype("M8[D]")
    for at in range(5):
        dates = pa.array(days[at])
        if at > 2:
            dates = pa.compute.strftime(dates, format="%d.%m.%Y")
        table[f"date_{at}"] = dates
    for at in range(5):
        table[f"flag_{at}"] = pa.array(draw.random(count) < 0.3)
    table["number"] = pa.array(draw.integers(10**6, 10**7, count))
    codes = pa.array(draw.integers(0, 100_000, count)).cast(pa.string())
    table["code"] = pa.compute.utf8_lpad(codes, width=5, padding="0")
    table["target"] = pa.array(["no", "perhaps", "yes"]).take(pa.array(draw.integers(0, 3, count)))
    plain = csv.WriteOptions(quoting_style="none", quoting_header="none")
    csv.write_csv(pa.table(table), path, plain)


def measure(path: str, reader: str) -> dict[str, float]:
    """Read the file in this process; return what that took."""
    import pandas
    import pyarrow.csv  # noqa: F401

    from plainfit import open_data

    open_data("digits")  # loads the rest
    before, start = peak(), time.perf_counter()
    if reader == "pandas":
        pandas.read_csv(path)
        return {"pandas": time.perf_counter() - start, "pandas_mib": peak() - before}
    data = open_data(path)
    opened, memory = time.perf_counter(), peak() - before
    _ = data.fingerprint
    return {
        "open_data": opened - start,
        "open_data_mib": memory,
        "fingerprint": time.perf_counter() - opened,
        "inputs": sum(data.counts().values()) * len(data.features) * 4 / 2**20,
    }


def peak() -> float:
    """Return the most memory that was resident, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure_size(path: Path) -> dict[str, float]:
    """Return the least figures of some processes for each reader."""
    found: dict[str, list[float]] = {}
    for reader in ("pandas", "open_data") * ROUNDS:
        command = [sys.executable, __file__, "--measure", str(path), reader]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        for name, value in json.loads(done.stdout).items():
            found.setdefault(name, []).append(value)
    return {name: min(values) for name, values in found.items()}


def main() -> None:
    """Measure what was asked for, save it and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=SIZES)
    parser.add_argument("--measure", nargs=2, metavar=("FILE", "READER"), help="one of them")
    asked = parser.parse_args()
    if asked.measure:
        print(json.dumps(measure(*asked.measure)))
        return
    rows = []
    for count in asked.rows:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "table.csv"
            write_table(path, count)
            size = path.stat().st_size / 2**20
            rows.append({"rows": count, "file": size, **measure_size(path)})
    cells = [[row[key] for key in COLUMNS] for row in rows]
    path = save_section("tables", "Tables", TEXT, list(COLUMNS.values()), cells, raw=rows)
    print(*("\t".join(map(str, line)) for line in [COLUMNS.values(), *cells]), sep="\n")
    print(path)


if __name__ == "__main__":
    main()

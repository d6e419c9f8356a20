"""plainfit and others at the same work: runs all of it and writes docs/benchmarks.md.

See README.md in this folder.
"""

import argparse
import datetime
import json
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import accuracy
import augmentation
import gains
import import_time
import overhead
import precision
import progress_cost
import results
import table
from contenders import CONTENDERS, MODELS
from machine import describe, limits
from rounds import play

import estimators
import report
from data import TRAIN, VALID, find_mnist, prepare

EPOCHS = {"logistic": 6, "cnn": 4}  # the first is the warm-up
ROUNDS = 3
PARTS = {
    "overhead": overhead.measure,
    "progress_cost": progress_cost.measure,
    "import_time": import_time.measure,
    "precision": precision.measure,
    "augmentation": augmentation.measure,
    "gains": gains.measure,
    "accuracy": accuracy.measure,
    "estimators": estimators.measure,
}


def parse() -> argparse.Namespace:
    """Read the command line."""
    names = lambda text: text.split(",")  # noqa: E731
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, help="the folder with MNIST's four .gz files")
    parser.add_argument("--models", type=names, default=list(MODELS), help="logistic,cnn")
    parser.add_argument("--rounds", type=int, help=f"turns for each contender ({ROUNDS})")
    parser.add_argument(
        "--only", type=names, help=f"some of: {','.join([*CONTENDERS, *PARTS])}", metavar="NAME,..."
    )
    parser.add_argument("--quick", action="store_true", help="one short round, printed only")
    parser.add_argument(
        "--append", action="store_true", help="add these rounds to the results, and keep the others"
    )
    args = parser.parse_args()
    for given, known in ((args.models, MODELS), (args.only or [], [*CONTENDERS, *PARTS])):
        for name in set(given) - set(known):
            parser.error(f"unknown: {name}; there are {', '.join(known)}")
    args.rounds = args.rounds or (1 if args.quick else ROUNDS)
    return args


def main() -> None:
    """Run what was asked for."""
    args = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the contender ends, too
    wanted = args.only or [*CONTENDERS, *PARTS]
    contenders = {
        name: c
        for name, c in CONTENDERS.items()
        if name in wanted and (args.only or not args.quick or c.kind != "option")
    }
    with tempfile.TemporaryDirectory() as scratch:
        kept = args.append or not (args.only or args.quick)
        folder = results.FOLDER if kept else Path(scratch) / "results"
        data = Path(scratch)
        if args.data_dir:
            os.environ["PLAINFIT_MNIST"] = str(args.data_dir)  # for all who look for it
        what = prepare(data, find_mnist(args.data_dir))
        print(f"data: {what}", flush=True)
        if contenders:
            compare(contenders, args, data, what, folder)
        for name in [name for name in PARTS if name in wanted]:
            print(f"{name} ...", flush=True)
            show_section(PARTS[name](data, args.quick, folder))
        if kept:
            print(report.write())


def compare(
    contenders: dict[str, Any], args: argparse.Namespace, data: Path, what: str, folder: Path
) -> None:
    """Run the rounds; write the results after every one, and print the tables."""
    speed = begin(what)
    path = results.path_of("speed", speed["machine"], folder)
    if args.append and path.is_file():
        speed = json.loads(path.read_text(encoding="utf-8"))
        if speed["data"] != what:
            raise SystemExit(f"the results in {path} are of {speed['data']}, this is {what}")
    epochs = dict.fromkeys(MODELS, 2) if args.quick else EPOCHS
    first = 1 + max((r["round"] for r in speed["runs"] if r["model"] in args.models), default=-1)
    rounds = range(first, first + args.rounds)
    for record in play(contenders, args.models, data, rounds, epochs):
        speed["runs"] = [r for r in speed["runs"] if not outdated(r, record)] + [record]
        outcome = record.get("failed") or (
            f"{table.later(record, 'seconds'):.3f} s an epoch, others used "
            f"{record['others_cores']:.2f} cores"
        )
        print(f"{record['round']} {record['model']} {record['contender']}: {outcome}", flush=True)
        results.save(path, speed)
    for model in args.models:
        print(f"\n{MODELS[model]}\n{report.speed_table(table.rows(speed, model))}")
        print(report.cost_table(table.rows(speed, model)))


def begin(what: str) -> dict[str, Any]:
    """Return a result without runs."""
    return {
        "name": "speed",
        "machine": describe(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "data": what,
        "samples": TRAIN,
        "valid_samples": VALID,
        "limits": limits(),
        "runs": [],
    }


def outdated(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Return whether an earlier failure has been tried again."""
    same = all(old[key] == new[key] for key in ("contender", "model"))
    return same and "failed" in old


def show_section(path: Path) -> None:
    """Print the table of a section."""
    section = json.loads(path.read_text(encoding="utf-8"))
    print(report.markdown_table(section["columns"], section["rows"]))


if __name__ == "__main__":
    main()

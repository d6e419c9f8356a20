"""The page `docs/benchmarks.md` and its pictures, from the results."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import goals
import results
import table
from contenders import MODELS
from machine import slug, work_of
from picture import draw
from rounds import BATCH_SIZE, DISTURBED

DOCS = Path(__file__).resolve().parents[1] / "docs"
# The order of the sections on the page, by the name of their file; others follow.
SECTIONS = [
    "overhead", "progress_cost", "import_time", "precision", "folder", "tables", "growth",
    "augmentation", "gains", "accuracy", "estimators", "processes", "compare",
]  # fmt: skip
INTRODUCTION = f"""# Benchmarks

Made by `make bench` from `benchmarks/results`; do not edit. How each contender is set up, and why
that is fair, is in `benchmarks/README.md`. For a GPU there is `python benchmarks/gpu.py`, which
prints its own table; it has not run on one yet.

All contenders do the same work: float32, SGD, batches of {BATCH_SIZE}, the samples in a new random
order each epoch, loss and accuracy on the validation samples after each, in batches of
{2 * BATCH_SIZE}. The logistic regression is 784 inputs to 10 outputs, learning rate 0.5. The CNN is
the tutorial's: three 3x3 convolutions with stride 2 and 16, 16 and 10 channels, a ReLU after each,
the mean over the image; learning rate 0.1, momentum 0.9. Each contender runs in its own process.
In a round every contender runs once, and each round starts with a different one. Values are medians
over the rounds of the median epoch after the first; the first is under "warm-up".
"""
LEGEND = """\
*Epoch* includes training and validation, and so do *samples/s* (training samples per time of an
epoch) and the ratios, which are taken within a round; the range is over the rounds. *Steps/s* and
*µs/step* count training alone; *over the hand loop* is the difference in µs/step to the loop
written by hand. *Of the limit* is the time that the step's arithmetic, or its memory traffic if
that takes longer, would need at the speeds measured on this machine, as a share of a step's time.
"""
COSTS = """\
*First step* is from the start of the process to the end of the first training step; plain JAX
compiles an epoch of the logistic regression as one, so its first step is its first epoch.
*Warm-up* is the extra time of the first epoch over the later ones. *Memory* is the peak resident
set size.
"""


def write(folder: Path = results.FOLDER, docs: Path = DOCS) -> Path:
    """Write the page and its pictures from all results in a folder; return the page's path."""
    loaded = results.load_all(folder)
    # The threads in a heading are those of the comparison; a section may have been run with others.
    ordered = sorted(loaded, key=lambda result: result["name"] == "speed")
    machines = {result["machine"]["name"]: result["machine"] for result in ordered}
    text = [INTRODUCTION]
    for name, where in machines.items():
        mine = [result for result in loaded if result["machine"]["name"] == name]
        text += [f"## {name}\n", *machine_section(where, mine, docs)]
    page = docs / "benchmarks.md"
    page.write_text("\n".join(text).rstrip() + "\n", encoding="utf-8")
    return page


def machine_section(
    where: dict[str, Any], mine: Sequence[dict[str, Any]], docs: Path
) -> Iterable[str]:
    """Yield the parts of the page about one machine."""
    for speed in (result for result in mine if result["name"] == "speed"):
        yield from speed_section(where, speed, docs)
    if aims := goals.rows(mine):
        yield f"### Goals\n\n{goals.TEXT}"
        yield markdown_table(goals.COLUMNS, aims)
    others = [result for result in mine if "columns" in result]
    for section in sorted(others, key=place):
        yield f"### {section['title']}\n\n{section['text']}\n"
        yield markdown_table(section["columns"], section["rows"])


def place(section: dict[str, Any]) -> tuple[int, str]:
    """Return where a section comes."""
    name = section["name"]
    return (SECTIONS.index(name) if name in SECTIONS else len(SECTIONS), name)


def speed_section(where: dict[str, Any], speed: dict[str, Any], docs: Path) -> Iterable[str]:
    """Yield the comparison of all contenders: picture, tables, limits."""
    by_model = {m: rows for m in MODELS if (rows := table.rows(speed, m))}
    image = Path("images") / f"benchmarks-{slug(where)}.png"
    draw(by_model, docs / image)
    limits = speed["limits"]
    yield (
        f"{speed['date']}, Python {where['python']}, torch {where['torch']} on "
        f"{where['device']} with {where['threads']} threads. Data: {speed['data']}, "
        f"{speed['samples']:,} training and {speed['valid_samples']:,} validation samples. "
        f"Measured: {limits['bytes_per_second'] / 1e9:.1f} GB/s in a copy, "
        f"{limits['flops_per_second'] / 1e9:,.0f} Gflop/s in a float32 product. Peers: "
        + ", ".join(f"{name} {v}" for name, v in versions(speed).items())
        + f". {disturbances(speed)}\n"
    )
    yield f"![Speed of each contender as a multiple of the tutorial's loop]({image.as_posix()})\n"
    for model, rows in by_model.items():
        yield f"### {MODELS[model][0].upper()}{MODELS[model][1:]}\n"
        yield speed_table(rows)
        yield cost_table(rows)
        yield limit_text(speed, model)
        yield from (f"No figures for {t}: {r}\n" for t, r in table.failures(speed, model).items())
    yield f"{LEGEND}\n{COSTS}"


def disturbances(speed: dict[str, Any]) -> str:
    """Say how many of the runs had to share the machine."""
    runs = [record for record in speed["runs"] if "failed" not in record]
    shared = sum(record["others_cores"] > DISTURBED for record in runs)
    return f"In {shared} of {len(runs)} runs other processes used more than {DISTURBED} cores."


def versions(speed: dict[str, Any]) -> dict[str, str]:
    """Return the versions of the peers' packages."""
    runs = [record["versions"] for record in speed["runs"] if "failed" not in record]
    return {name: version for found in runs for name, version in found.items() if name != "torch"}


def speed_table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the table of speeds."""
    peer = rows[0]["fastest_peer"] or "the fastest peer"
    columns = [
        "", "speed, tutorial = 1", "range", f"speed, {peer} = 1", "samples/s", "epoch, s",
        "steps/s", "µs/step", "over the hand loop, µs", "of the limit",
    ]  # fmt: skip
    return markdown_table(columns, [speed_cells(row) for row in rows])


def speed_cells(row: dict[str, Any]) -> list[str]:
    """Return a contender's cells in the table of speeds."""
    low, high = row["of_tutorial_range"] or (None, None)
    return [
        title_of(row),
        shown(row["of_tutorial"], ".2f"),
        f"{low:.2f} to {high:.2f}" if low else "",
        shown(row["of_fastest_peer"], ".2f"),
        f"{row['samples_per_second']:,.0f}",
        f"{row['epoch_seconds']:.3f}",
        f"{row['steps_per_second']:,.0f}",
        f"{row['step_us']:,.0f}",
        shown(row["over_hand_us"], "+,.0f"),
        f"{row['of_limit']:.0%}",
    ]


def cost_table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the table of what else a training costs, and what it reaches."""
    columns = ["", "first step, s", "warm-up, s", "memory, MiB", "accuracy", "validation loss"]
    cells = [
        [
            title_of(row),
            f"{row['first_step_seconds']:.2f}",
            f"{row['warm_up_seconds']:.2f}",
            f"{row['peak_rss_mib']:,.0f}",
            f"{row['accuracy']:.4f}",
            f"{row['valid_loss']:.4f}",
        ]
        for row in rows
    ]
    return markdown_table(columns, cells)


def title_of(row: dict[str, Any]) -> str:
    """Return the contender's name, ours in bold."""
    return f"**{row['title']}**" if row["kind"] == "ours" else row["title"]


def limit_text(speed: dict[str, Any], model: str) -> str:
    """Say what a step needs at the least."""
    work, limits = work_of(model), speed["limits"]
    flops, size = work["flops"] * BATCH_SIZE, work["bytes"] * BATCH_SIZE
    return (
        f"A step is {flops / 1e6:.2f} Mflop, {flops / limits['flops_per_second'] * 1e6:,.0f} µs "
        f"here, and at least {size / 1e6:.2f} MB, "
        f"{size / limits['bytes_per_second'] * 1e6:,.0f} µs.\n"
    )


def shown(value: float | None, form: str) -> str:
    """Return a number, or nothing where there is none."""
    return "" if value is None else format(value, form)


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str | float]]) -> str:
    """Return a table; all columns but the first are aligned to the right."""
    rule = ["---", *["---:"] * (len(columns) - 1)]
    lines = [columns, rule, *[[cell(value) for value in row] for row in rows]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def cell(value: str | float) -> str:
    """Return a cell: text as it is, an integer whole, another number with three digits or more."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:#.3g}"


if __name__ == "__main__":
    print(write(*map(Path, sys.argv[1:])))

"""What the command line's bar costs on a terminal, against none: one process, in turn."""

import os
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from overhead import parts, read_train
from results import save_section
from rich.console import Console
from turns import percent, ratio, take_turns

import plainfit as pf
from plainfit.callbacks import ProgressBar
from plainfit.progress import on_terminal

TURNS = 101
EPOCHS = 2  # in a turn
TEXT = """\
The bar of `plainfit train` on a terminal of 80 columns whose output goes to the null device,
against none: {epochs} epochs of the logistic regression, the work with the shortest steps, with one
thread, in turn, {turns} times each; the median of the ratios within a turn, and their quartiles.
The goal is 1 %."""


def measure(data: Path, quick: bool, folder: Path) -> Path:
    """Measure, and write the section."""
    turns, threads = (5 if quick else TURNS), torch.get_num_threads()
    dataset = read_train(data)
    torch.set_num_threads(1)
    with Path(os.devnull).open("w") as sink:
        console = Console(file=sink, force_terminal=True, width=80)
        ways = {
            "no bar": training(dataset, None),
            "no bar again": training(dataset, None),
            "bar": training(dataset, console),
        }
        try:
            times = take_turns(ways, turns)
        finally:
            torch.set_num_threads(threads)
    rows = []
    for name, seconds in times.items():
        middle, low, high = ratio(seconds, times["no bar"])
        rows.append([name, percent(middle), f"{percent(low)} to {percent(high)}"])
    return save_section(
        "progress_cost",
        "What the progress bar costs",
        TEXT.format(epochs=EPOCHS, turns=turns),
        ["", "over no bar", "quartiles"],
        rows,
        raw=times,
        folder=folder,
    )


def training(
    dataset: torch.utils.data.TensorDataset, console: Console | None
) -> Callable[[], None]:
    """Return a training of some epochs, with a bar if there is a console for it."""
    model, opt, loader = parts(dataset)

    def fit(*callbacks: pf.Callback) -> None:
        pf.fit(EPOCHS, model, F.cross_entropy, opt, loader, None, callbacks=callbacks, echo=None)

    def with_bar() -> None:
        progress = ProgressBar(console)
        with on_terminal(progress.bar):
            fit(progress)

    return fit if console is None else with_bar

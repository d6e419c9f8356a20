"""What the command line's bar costs on a terminal, against none: one process, in turn."""

import os
from collections.abc import Callable
from pathlib import Path

import torch.nn.functional as F
from overhead import new_model, read_train, shuffled
from results import save_section
from rich.console import Console
from turns import STEPS, Share, percent, ratio, take_turns

import plainfit as pf
from plainfit.common.devices import cpu_threads
from plainfit.common.progress import on_terminal
from plainfit.training.callbacks import observers

TIMES, EPOCHS = 20, 11  # of which the first warms up
TEXT = """\
The bar of `plainfit train` on a terminal of 80 columns whose output goes to the null device,
against none: epochs of the logistic regression, the work with the shortest steps, with one thread
of torch. Each way takes {steps} steps and waits for the others; the order is another one in each
round. The bar is drawn as often in a second of its own as on a terminal. Of {epochs} epochs of
{times} trainings, the median of the ratios, and their quartiles."""


def measure(data: Path, quick: bool, folder: Path) -> Path:
    """Measure, and write the section."""
    times, epochs = (1, 4) if quick else (TIMES, EPOCHS)
    dataset = read_train(data)
    with cpu_threads(1), Path(os.devnull).open("w") as sink:
        console = Console(file=sink, force_terminal=True, width=80)
        ways = {
            "no bar": training(epochs, None),
            "no bar again": training(epochs, None),
            "bar": training(epochs, console),
        }
        refresh = observers.REFRESH
        observers.REFRESH *= len(ways)  # its clock does not stop while the others have their turns
        try:
            seconds = take_turns(ways, lambda: shuffled(dataset), times)
        finally:
            observers.REFRESH = refresh
    rows = []
    for name, mine in seconds.items():
        middle, low, high = ratio(mine, seconds["no bar"])
        rows.append([name, percent(middle), f"{percent(low)} to {percent(high)}"])
    return save_section(
        "progress_cost",
        "What the progress bar costs",
        TEXT.format(steps=STEPS, times=times, epochs=times * (epochs - 1)),
        ["", "over no bar", "quartiles"],
        rows,
        raw=seconds,
        folder=folder,
    )


def training(epochs: int, console: Console | None) -> Callable[[Share], None]:
    """Return a training, with a bar if there is a console for it."""

    def fit(loader: Share, *callbacks: pf.Callback) -> None:
        model, opt = new_model()
        pf.fit(epochs, model, F.cross_entropy, opt, loader, None, callbacks=callbacks, echo=None)

    def with_bar(loader: Share) -> None:
        bar = observers.ProgressBar(console)
        with on_terminal(bar.bar):
            fit(loader, bar)

    return fit if console is None else with_bar

"""The `plainfit` command. torch loads when a command needs it, so that `--help` is quick."""

import errno
import os
import re
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import TyperException

from plainfit.cli import ladder, runs, training, web
from plainfit.cli.cache import cache
from plainfit.cli.cleaning import clean, relabel
from plainfit.cli.config import init
from plainfit.cli.eject import eject
from plainfit.cli.shared import BAD_INPUT, FAILED, INTERRUPTED, not_shown, rank, show, surroundings
from plainfit.cli.tuning import tune
from plainfit.common.errors import ConfigError, PlainfitError, TrainingError, memory_hint, reason
from plainfit.runs.settings import RunConfig, names_of, option

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    training.train,
    training.fine_tune,
    training.resume,
    training.lr_find,
    tune,
    runs.predict,
    training.data,
    init,
    training.augment,
    runs.summary,
    runs.runs,
    runs.report,
    runs.compare,
    runs.export,
    web.app,
    web.serve,
    clean,
    relabel,
    eject,
    cache,
    ladder.notebook,
):
    app.command()(command)
app.add_typer(ladder.app)
# As a remedy, the end of a message, names them; in a path, a call or quotes they are no settings.
SETTINGS = re.compile(
    rf"(?<![\w./='-])({'|'.join(n for n in ('trust_code', *names_of(RunConfig)) if '_' in n)})"
    r"(?![\w/='(-]|\.\w)"
)


def main() -> None:
    """Run the command line: bad input is one line on stderr and exit code 2."""
    with surroundings(), warnings.catch_warnings():
        warnings.showwarning = show_warning
        if "" not in sys.path:
            sys.path.append("")  # the current folder, for what a user's model imports when called
        sys.exit(run())


def run() -> int:
    try:
        code = app(standalone_mode=False)
    except Exception as error:
        if isinstance(error, OSError) and error.filename is not None:
            error = PlainfitError(f"{error.filename} must be a usable path ({error.strerror})")
        is_input = isinstance(error, PlainfitError | TyperException)
        code = BAD_INPUT if is_input and not isinstance(error, TrainingError) else FAILED
        if "--debug" in sys.argv:
            traceback.print_exc()
        if message := message_of(error):  # empty where there were no arguments: it shows the help
            tell_error(message)
    if code == INTERRUPTED and "RANK" not in os.environ:  # typer's answer to Ctrl-C
        show("\nstopped", sys.stderr)
    code = code if isinstance(code, int) else 0
    show(end="")  # what others have left in the buffer
    if lost := [error for error in not_shown if error.errno != errno.EPIPE]:
        tell_error(f"the output could not be written ({lost[0].strerror})")
        code = code or FAILED
    return code


def tell_error(message: str) -> None:
    """Print an error; of several processes, the launcher prints what the first one has left it."""
    message = " ".join(message.split())
    if job := os.environ.get("PLAINFIT_JOB"):
        path = Path(job) / f"{time.monotonic_ns():020}-{rank()}"
        try:
            path.write_text(message, encoding="utf-8", errors="replace")
            return
        except OSError:  # a full disk
            path.unlink(missing_ok=True)
    if rank() != "0":
        time.sleep(5)  # what fails everywhere, the first process tells, and torchrun ends this one
    where = "" if rank() == "0" else f" in process {rank()}"
    show(f"error{where}: {message}", sys.stderr)


def message_of(error: Exception) -> str:
    if isinstance(error, TyperException):
        return str(error.format_message())
    text = reason(error)
    if not isinstance(error, PlainfitError):
        text += " (--debug shows where)"
    if isinstance(error, ConfigError) and error.field is not None:
        text = option(error.field) + text.removeprefix(error.field)
    start, mark, remedy = (text + memory_hint(text)).rpartition("; ")
    return start + mark + SETTINGS.sub(lambda found: option(found[0]) if mark else found[0], remedy)


def show_warning(message: Warning | str, *_: object, **__: object) -> None:
    if rank() == "0":
        show("warning: " + " ".join(str(message).split()), sys.stderr)


def version_asked(asked: bool) -> None:
    if asked:
        from plainfit import __version__

        show(f"plainfit {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=version_asked, is_eager=True, help="Show it.")
    ] = False,
) -> None:
    """Train a PyTorch model in three lines, and see exactly what they do."""

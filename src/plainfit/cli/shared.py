"""Shared by the commands: options made from settings, and printing."""

import inspect
import json
import os
import re
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO, TypeVar, get_args

import typer

from plainfit.common.errors import TrustError
from plainfit.common.schema import hints_of
from plainfit.runs.settings import DataSettings, RunConfig, names_of, option

if TYPE_CHECKING:
    from plainfit.runs.folder import Run

T = TypeVar("T")
Parameter, KEYWORD_ONLY = inspect.Parameter, inspect.Parameter.KEYWORD_ONLY
RunFolder = Annotated[Path, typer.Argument(help="A run folder.")]
Source = Annotated[str, typer.Argument(help="digits, mnist, fashion-mnist, or a path.")]
GROUPS = {
    kind.__name__.removesuffix("Settings").lower(): kind for kind in reversed(RunConfig.__bases__)
}
GROUP_OF = {name: group for group, kind in GROUPS.items() for name in names_of(kind)}
SOURCE_OPTIONS = names_of(DataSettings, without=("data",))
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, for machines.")]
TrustCode = Annotated[
    bool, typer.Option("--trust-code", help="Run its model's code, whoever wrote it.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130  # exit codes; 130 is 128 + SIGINT, as shells count
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # a terminal would obey them
not_shown: list[OSError] = []  # why output was lost


def show(text: str = "", stream: TextIO | None = None, end: str = "\n") -> None:
    """Print text: never wrapped or coloured, safe to pipe, and without control characters.

    A name of a file or a class from someone else may hold those. A stream that cannot be written
    to, such as a closed pipe, ends no command, and is left alone.
    """
    stream = stream or sys.stdout
    text = CONTROL.sub(lambda character: ascii(character[0])[1:-1], text)
    try:
        print(text, file=stream, end=end, flush=True)
    except OSError as error:
        not_shown.append(error)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())  # what is left in the buffer goes there as well
        os.close(nowhere)


def rank() -> str:
    """Return the number of this process among several, of which the first has all output."""
    return os.environ.get("RANK", "0")


@contextmanager
def surroundings() -> Iterator[None]:
    """Make the standard streams safe to write to; leave the process as it was."""
    streams, path, hook = (sys.stdin, sys.stdout, sys.stderr), list(sys.path), sys.excepthook
    with ExitStack() as opened:
        for name in ("stdin", "stdout", "stderr"):  # in the order of their descriptors
            if getattr(sys, name) is None:  # closed by the shell
                nowhere = opened.enter_context(Path(os.devnull).open("r+", encoding="utf-8"))
                setattr(sys, name, nowhere)
        strict = [
            stream
            for stream in (sys.stdout, sys.stderr)
            if isinstance(stream, TextIOWrapper) and stream.errors == "strict"
        ]
        for stream in strict:
            stream.reconfigure(errors="replace")
        try:
            yield
        finally:
            for stream in strict:
                stream.reconfigure(errors="strict")
            (sys.stdin, sys.stdout, sys.stderr), sys.path[:], sys.excepthook = streams, path, hook
            not_shown.clear()


def show_json(value: Any) -> None:
    show(json.dumps(value, indent=2, default=str))  # a date of a table, say


def asking(call: Callable[[bool], T], trust_code: bool) -> T:
    """Call with `trust_code`; on a terminal, ask whether to trust code that did not train here."""
    try:
        return call(trust_code)
    except TrustError as error:
        if not sys.stdin.isatty():
            raise
        show(f"this is code that did not train here: {error.target}\n  {error.source}")
        if not typer.confirm("Run it, now and from now on?"):
            raise
        return call(True)


def open_trusted(folder: Path, trust_code: bool) -> "Run":
    """Open a run, and import its model's code; see `asking`."""
    from plainfit.runs.folder import open_run

    def opened(trust_code: bool) -> "Run":
        run = open_run(folder, trust_code=trust_code)
        run.factory  # noqa: B018  # imports the code
        return run

    return asking(opened, trust_code)


def is_given(context: typer.Context, name: str, *, in_file: bool = True) -> bool:
    """Return whether an option is on the command line, or `in_file`, that of `--config`."""
    source = context.get_parameter_source(name)
    kinds = ("COMMANDLINE", "DEFAULT_MAP") if in_file else ("COMMANDLINE",)
    return source is not None and source.name in kinds


def with_options_of(names: Collection[str]) -> Callable[[Callable[..., None]], Any]:
    """Give a command an option for each of these fields of `RunConfig`."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        given = inspect.signature(command).parameters.values()
        own = [p.replace(kind=KEYWORD_ONLY) for p in given if p.name != "options"]
        hints = hints_of(RunConfig)
        extra = []
        for item in [item for item in fields(RunConfig) if item.name in names]:
            kind, text, *_ = get_args(hints[item.name])
            if kind == float | str | None:  # RunConfig tells a number from a word
                kind = str | None
            shown = item.default is not None and item.default is not False
            name = option(item.name)
            if kind is bool:  # what is on by default, in a preset or in a file can be turned off
                name += f"/--no-{name[2:]}"
            panel = GROUP_OF[item.name].capitalize()
            hint: Any = Annotated[
                kind, typer.Option(name, help=text, show_default=shown, rich_help_panel=panel)
            ]
            extra.append(Parameter(item.name, KEYWORD_ONLY, default=item.default, annotation=hint))
        required = [p for p in own if p.default is Parameter.empty]
        optional = [p for p in own if p.default is not Parameter.empty]
        signature = inspect.Signature([*required, *extra, *optional])
        command.__signature__ = signature  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
        return command

    return decorate

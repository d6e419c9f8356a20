"""The page of the command line, made from the program itself when the site is built."""

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, get_args, get_origin

import typer

from plainfit.cli import app

PAGE = Path(__file__).parent / "command-line.md"
TOP = """\
# Command line

Every command has `--help`. Invalid input prints one line and exits with code 2, a training that
fails with 1, Ctrl-C with 130; `--debug` shows the traceback. `--json` prints one JSON object where
a command has it. Settings in a file: [`--config`](config.md).
"""


def write() -> None:
    """Write the page, if it is not there as it would be."""
    root = typer.main.get_command(app)
    text = "\n".join([TOP, *(line for name in root.commands for line in lines(root, name))])
    if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
        PAGE.write_text(text, encoding="utf-8")


def lines(group: Any, name: str, before: str = "plainfit") -> Iterator[str]:
    """Give the lines about a command, and about those below it."""
    command = group.commands[name]
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
    usage = " ".join([before, name, *(usage_of(argument) for argument in arguments)])
    yield f"## {before.removeprefix('plainfit').strip()} {name}".replace("  ", " ")
    yield f"\n```\n{usage}{' [OPTIONS]' if options else ''}\n```\n\n{command.help}\n"
    for argument in arguments:
        yield f"- `{usage_of(argument)}`: {argument.help}"
    options.sort(key=lambda option: option.rich_help_panel or "")
    for panel, members in groupby(options, key=lambda option: option.rich_help_panel):
        yield f"\n| {panel or 'option'} | |\n| --- | --- |"
        for option in members:
            yield f"| {cell_of(option)} | {text_of(option)} |"
    yield ""
    for below in getattr(command, "commands", ()):
        yield from lines(command, below, f"{before} {name}")


def usage_of(argument: Any) -> str:
    shown = argument.metavar or argument.name.upper()
    return shown if argument.required else f"[{shown}]"


def cell_of(option: Any) -> str:
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    if option.is_flag:
        return names
    kind = option.type_descriptor.annotation
    while get_origin(kind) is not None:  # int | None, list[str]
        kind = next(part for part in get_args(kind) if part is not type(None))
    return f"{names} {({'str': 'TEXT', 'int': 'N', 'float': 'X'}).get(kind.__name__, 'PATH')}"


def text_of(option: Any) -> str:
    text = (option.help or "").replace("|", "\\|")
    shown = option.show_default and not option.is_flag and option.default is not None
    return f"{text} Default: `{option.default}`." if shown else text

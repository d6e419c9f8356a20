"""`plainfit cache`: the compiled programs that are kept."""

import time
from typing import Annotated

from typer import Option

from plainfit.cli.shared import Debug, Json, show, show_json
from plainfit.common.errors import plural


def cache(
    clear: Annotated[bool, Option("--clear", help="Delete them.")] = False,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """List the compiled programs that are kept for the next time: size, when used last."""
    from plainfit.training import program_cache

    folder, found = program_cache.folder(), program_cache.programs()
    rows = [
        (path.name[:12], file.st_size, time.strftime("%F %H:%M", time.localtime(file.st_mtime)))
        for path, file in found
    ]
    total = sum(size for _, size, _ in rows)
    if clear:
        program_cache.clear()
    if json_:
        programs = [dict(zip(("program", "bytes", "used"), row, strict=True)) for row in rows]
        show_json({"folder": str(folder), "bytes": total, "programs": programs, "cleared": clear})
    elif not rows:
        show(f"no compiled programs in {folder}; plainfit train --compile epoch makes one")
    elif clear:
        show(f"deleted {plural(len(rows), 'program')} ({total / 1e6:.1f} MB) in {folder}")
    else:
        show(f"{'program':12}{'MB':>8}  used last")
        for name, size, used in (*rows, ("all", total, str(folder))):
            show(f"{name:12}{size / 1e6:8.1f}  {used}")
        if why := program_cache.danger(folder):
            show(f"none is used, as {why}")

"""`plainfit cache`: the compiled programs that are kept."""

import time
from typing import Annotated

from typer import Option

from plainfit.cli.shared import Debug, Json, show, show_json


def cache(
    clear: Annotated[bool, Option("--clear", help="Delete them.")] = False,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """List the compiled programs that are kept for the next time: size, when used last."""
    from plainfit.training import program_cache

    folder, found = program_cache.folder(), program_cache.programs()
    total = sum(file.st_size for _, file in found)
    if clear:
        program_cache.clear()
    if json_:
        files = [
            {"program": path.name, "bytes": file.st_size, "used": stamp(file.st_mtime)}
            for path, file in found
        ]
        show_json({"folder": str(folder), "bytes": total, "programs": files, "cleared": clear})
    elif not found:
        show(f"no compiled programs in {folder}; plainfit train --compile epoch makes one")
    elif clear:
        what = "program" if len(found) == 1 else "programs"
        show(f"deleted {len(found)} {what} ({total / 1e6:.1f} MB) in {folder}")
    else:
        show(f"{'program':12}{'MB':>8}  used last")
        for path, file in found:
            show(f"{path.name[:12]}{file.st_size / 1e6:8.1f}  {stamp(file.st_mtime)}")
        show(f"{'all':12}{total / 1e6:8.1f}  {folder}")
        if why := program_cache.danger(folder):
            show(f"none is used, as {why}")


def stamp(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))

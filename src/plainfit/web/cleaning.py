"""The page `clean`: samples whose labels may be wrong, and what is decided of them."""

import io
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Body, HTTPException, Request, Response
from fastapi.responses import HTMLResponse
from PIL import Image, ImageOps

from plainfit.common.errors import DataError, raised_as
from plainfit.data.decoding import BadImageError, converted, open_image
from plainfit.data.open_data import IMAGES, TABLE
from plainfit.data.tables.reading import TableOptions, read_columns
from plainfit.runs.cleaning import RESULT
from plainfit.runs.decisions import UNDO, Cleaning, Decision, Sample, cleanings
from plainfit.runs.settings import RunConfig
from plainfit.web.home import Home, page

MOST = 2000  # samples on the page
LIKELIEST = 5  # classes of a sample
SIDE = 512  # pixels of a picture, at most
NAME = re.compile(r"[^\W_][\w .-]{0,99}")  # of new data, beside what was decided


def routes(home: Home) -> APIRouter:
    router = APIRouter()

    def cleaning(name: str) -> Cleaning:
        for folder in cleanings(home.folder):
            if folder.name == name:
                return opened(folder, (folder / RESULT).stat().st_mtime_ns)
        detail = {"text": "no_result", "name": repr(name), "folder": str(home.folder)}
        raise HTTPException(404, detail)

    def sample(name: str, number: int) -> tuple[Cleaning, Sample]:
        found = cleaning(name)
        if not 0 <= number < len(found.samples):
            raise HTTPException(404, f"{name} has no sample {number}")
        return found, found.samples[number]

    @router.get("/clean", include_in_schema=False)
    async def show(request: Request) -> HTMLResponse:
        return page(request, "clean")

    @router.get("/api/clean")
    def results() -> list[str]:
        return [folder.name for folder in cleanings(home.folder)]

    @router.get("/api/clean/{name}")
    def result(name: str) -> dict[str, Any]:
        """Return the suspects and the equal samples, by number, and what was decided."""
        found = cleaning(name)
        at = {sample.origin: number for number, sample in enumerate(found.samples)}
        suspects = [n for n, sample in enumerate(found.samples[:MOST]) if sample.is_suspect]
        equal = [
            [at[one["sample"]] for one in group if one.get("sample") in at]
            for group in found.record["equal"]
        ]
        shown = {*suspects, *(number for group in equal[:MOST] for number in group)}
        own = {name: found.record[name] for name in ("kind", "classes", "folds", "accuracy")}
        return own | {
            "data": found.config.data,
            "all": found.record["suspects"],
            "suspects": suspects,
            "equal": equal[:MOST],
            "samples": {number: brief(found.samples[number]) for number in sorted(shown)},
            **state(found),
        }

    @router.get("/api/clean/{name}/samples/{number}")
    def details(name: str, number: int) -> dict[str, Any]:
        found, one = sample(name, number)
        pairs = zip(found.classes, one.probabilities, strict=False)
        likeliest = sorted(pairs, key=lambda pair: -pair[1])
        own = [pair for pair in likeliest[LIKELIEST:] if pair[0] == one.label]
        row = row_of(found, one) if found.record["kind"] == TABLE else []
        return {"probabilities": [*likeliest[:LIKELIEST], *own], "row": row}

    @router.get("/api/clean/{name}/samples/{number}/image", response_class=Response)
    def image(name: str, number: int) -> Response:
        content = io.BytesIO()
        with picture(*sample(name, number)) as shown:
            shown.save(content, format="PNG")
        return Response(content.getvalue(), media_type="image/png")

    @router.post("/api/clean/{name}/decisions")
    def decide(
        name: str,
        action: Annotated[str, Body()],
        number: Annotated[int, Body()] = -1,
        label: Annotated[str | None, Body()] = None,
    ) -> dict[str, Any]:
        """Append a decision, or take the last one back."""
        if action == UNDO:
            found = cleaning(name)
            found.undo()
        else:
            found, one = sample(name, number)
            found.decide(Decision(one.origin, action, label))
        return state(found)

    @router.post("/api/clean/{name}/apply")
    def apply(name: str, out: Annotated[str, Body(embed=True)]) -> dict[str, Any]:
        """Write the new data beside the decisions."""
        found = cleaning(name)
        if not NAME.fullmatch(out):
            raise HTTPException(422, {"text": "no_data_name", "name": repr(out)})
        place = found.folder / out
        return {"commands": found.apply(place), "data": str(place)}

    return router


@lru_cache(maxsize=8)
def opened(folder: Path, stamp: int) -> Cleaning:
    return Cleaning.open(folder)


def brief(sample: Sample) -> dict[str, Any]:
    origin = sample.origin.encode("utf-8", "replace").decode()  # a name of a file may be no text
    return {
        "origin": origin,
        "part": sample.part,
        "label": sample.label,
        "suggested": sample.suggested,
    }


def state(found: Cleaning) -> dict[str, Any]:
    """Return what is decided of each sample, by its number, and how many changes that makes."""
    decisions = found.decisions()
    return {
        "decisions": {
            number: {"action": one.action, "label": one.label}
            for number, sample in enumerate(found.samples)
            if (one := decisions.get(sample.origin))
        },
        **found.counts(decisions),
    }


def row_of(found: Cleaning, sample: Sample) -> list[tuple[str, str]]:
    path = Path(found.config.data)
    columns = table_of(found.config, path.stat().st_mtime_ns)
    row = int(sample.origin) - 1
    with raised_as(DataError, f"{path} must have the rows that were ranked"):
        return [(name, text_of(column[row].as_py())) for name, column in columns.items()]


def text_of(value: Any) -> str:
    return "" if value is None else str(value)


@lru_cache(maxsize=2)
def table_of(config: RunConfig, stamp: int) -> Mapping[str, Any]:
    written = {n: getattr(config, n) for n in ("delimiter", "encoding", "decimal", "na")}
    table = read_columns(Path(config.data), TableOptions(**written))
    return table.columns


def picture(found: Cleaning, sample: Sample) -> Image.Image:
    if found.record["kind"] == TABLE:
        raise HTTPException(404, "a row of a table has no image")
    if found.record["kind"] != IMAGES:
        part, row = places_of(found.config)[sample.origin]
        pixels = (part[row][0] * 256).byte().permute(1, 2, 0).squeeze(-1)
        return Image.fromarray(pixels.numpy())
    if Path(sample.origin).is_absolute() or ".." in Path(sample.origin).parts:
        raise HTTPException(404, "an image must be in the folder that was ranked")
    try:
        with open_image(str(Path(found.config.data, sample.origin))) as image:
            image.draft("RGB", (SIDE, SIDE))
            image.thumbnail((SIDE, SIDE))
            upright = ImageOps.exif_transpose(image)
            return converted(upright, "L" if upright.mode in ("1", "L") else "RGB")
    except (BadImageError, OSError, ValueError) as error:
        raise HTTPException(404, f"{sample.origin} must be a readable image") from error


@lru_cache(maxsize=2)
def places_of(config: RunConfig) -> dict[str, tuple[Any, int]]:
    """Return the dataset and the row of each sample from arrays."""
    data = config.open_data()
    return {
        origin: (data.parts()[part], row)
        for part, origins in data.origins().items()
        for row, origin in enumerate(origins)
    }

"""The page `try`: what a run answers to a drawing, a picture, a row or a text, and why."""

from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from fastapi import APIRouter, Body, File, Form, HTTPException, Request, UploadFile
from fastapi.responses import HTMLResponse
from PIL import Image
from torch import Tensor

from plainfit.common.errors import DataError, PlainfitError, RunError, raised_as, unknown_name
from plainfit.data.datasets import bytes_to_floats
from plainfit.data.decoding import BadImageError, read_image
from plainfit.data.drawing import SOURCES, is_of_size, prepare_drawing
from plainfit.data.segmentation import COLOURS, overlaid
from plainfit.data.targets import REGRESSION, SEGMENTATION
from plainfit.report.predictions import data_uri
from plainfit.runs.explain import Inside
from plainfit.runs.folder import BEST, RECORD, Run, load_run, open_run
from plainfit.runs.form import as_written, fields_of, varied
from plainfit.runs.inference import outputs_of
from plainfit.runs.inputs import image_shape
from plainfit.runs.predict import best_output, readable
from plainfit.web.home import Home, page
from plainfit.web.serving import outputs, table_inputs

MOST_MAPS = 32  # of a layer
MOST_CURVES = 60  # columns that are varied
BRUSHES = {"digits": 0.1, "mnist": 0.075, "fashion-mnist": 0.1}  # share of the canvas's side
UP, DOWN = (217, 115, 31), (47, 111, 214)  # colours of what raises a score, and what lowers it

Value = str | float | None
Row = Annotated[dict[str, Value], Body(embed=True)]


class Tried:
    """A run with its model, and what is opened of it when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self.run = load_run(folder)

    @cached_property
    def inside(self) -> Inside:
        return Inside(self.run)

    @cached_property
    def form(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        return fields_of(self.run)

    def found(self, xb: Tensor) -> Tensor:
        with raised_as(RunError, "the run's model must take such samples"):
            rows = outputs(self.run.model, outputs_of(self.run)[best_output(self.run)], xb)
        if not rows.isfinite().all():
            raise RunError("the outputs of the run's model must be finite, and are not")
        return rows

    def output(self, xb: Tensor, of: str | None) -> int:
        names = self.run.target.names
        if of is None:
            return 0 if self.run.target.task == REGRESSION else int(self.found(xb)[0].argmax())
        if of not in names:
            raise RunError(unknown_name("output", of, names))
        return names.index(of)


@lru_cache(4)
def opened(folder: Path, stamp: int) -> Tried:
    return Tried(folder)


def routes(home: Home) -> APIRouter:
    router = APIRouter()
    at = "/api/try/{name}"

    def tried(name: str) -> Tried:
        folder = home.run_folder(name)
        weights = folder / BEST
        return opened(folder, weights.stat().st_mtime_ns if weights.is_file() else 0)

    @router.get("/try", include_in_schema=False)
    async def show(request: Request) -> HTMLResponse:
        return page(request, "try", train=home.first_training)

    @router.get("/api/try")
    def runs() -> list[dict[str, Any]]:
        """Return the runs, the newest first, and what each of them takes."""
        records = sorted(home.folder.glob(f"*/{RECORD}"), key=lambda path: -path.stat().st_mtime)
        return [described(record.parent) for record in records]

    @router.get(at)
    def load(name: str) -> None:
        """Load a run's model, for the first answer to come at once."""
        tried(name)

    @router.post(f"{at}/picture")
    def picture(name: str, image: Annotated[UploadFile, File()]) -> dict[str, Any]:
        own = tried(name)
        xb, how = picture_input(own.run, image.file.read())
        return {"seen": seen(xb), "how": how, "answer": answer(own, xb)}

    @router.post(f"{at}/inside")
    def inside(
        name: str,
        image: Annotated[UploadFile, File()],
        of: Annotated[str | None, Form()] = None,
    ) -> dict[str, Any]:
        """Return where a score comes from, and what each layer gives."""
        own = tried(name)
        xb, _ = picture_input(own.run, image.file.read())
        with raised_as(RunError, "the run's model must let itself be looked into"):
            layers = [layer(*item) for item in own.inside.layers(xb).items()]
            if own.run.target.task == SEGMENTATION:
                return {"layers": layers}
            output = own.output(xb, of)
            maps = {
                "gradient": own.inside.gradient(xb, output), "hiding": own.inside.hiding(xb, output)
            }  # fmt: skip
        pictures = {how: data_uri(signed(of)) for how, of in maps.items()}
        return {"of": own.run.target.names[output], "layers": layers} | pictures

    @router.post(f"{at}/nearest")
    def nearest(name: str, image: Annotated[UploadFile, File()]) -> dict[str, Any]:
        """Return the training samples that are most alike to the model, or why there are none."""
        own = tried(name)
        xb, _ = picture_input(own.run, image.file.read())
        try:
            train = own.inside.data.train
            near = [train[row] for row in own.inside.nearest(xb)]
        except DataError as error:  # it is gone, or has changed
            return {"samples": [], "reason": str(error)}
        text = own.run.target.text
        return {"samples": [{"picture": seen(x[None]), "label": text(y)} for x, y in near]}

    @router.get(f"{at}/form")
    def form(name: str) -> dict[str, Any]:
        """Return the columns of a table as fields, and rows to start from."""
        fields, rows = tried(name).form
        return {"fields": fields, "rows": rows}

    @router.post(f"{at}/row")
    def answer_row(name: str, row: Row) -> dict[str, Any]:
        own = tried(name)
        return {"answer": answer(own, rows_input(own.run, [row]))}

    @router.post(f"{at}/curves")
    def curves(
        name: str, row: Row, of: Annotated[str | None, Body(embed=True)] = None
    ) -> dict[str, Any]:
        own = tried(name)
        output = own.output(rows_input(own.run, [row]), of)
        points = {field["name"]: varied(field) for field in own.form[0][:MOST_CURVES]}
        rows = [row | {n: value} for n, values in points.items() for value in values]
        found = iter(own.found(rows_input(own.run, rows))[:, output].tolist() if rows else [])
        lines = {
            n: [{"x": value, "y": next(found)} for value in values] for n, values in points.items()
        }
        return {"of": own.run.target.names[output], "curves": {n: x for n, x in lines.items() if x}}

    return router


def described(folder: Path) -> dict[str, Any]:
    """Return what a run takes, or why it cannot be tried."""
    about: dict[str, Any] = {"name": folder.name, "kind": "none"}
    try:
        run = open_run(folder)
        about |= {
            "model": run.settings["model"],
            "data": run.settings["data"],
            "task": run.target.task,
            "names": run.target.names,
            "columns": list(run.columns),
        }
        if not (folder / BEST).is_file():
            return about | {"reason": {"text": "no_weights"}}
        if run.columns:
            return about | {"kind": "row", "is_text": run.vocabulary is not None}
        _, height, width = image_shape(run)
        source = drawing_source(run)
        drawing = {"is_light": source is not None, "brush": BRUSHES.get(source or "", 0.05)}
        return about | {"kind": "picture", "height": height, "width": width, "drawing": drawing}
    except PlainfitError as error:
        return about | {"reason": str(error)}


def drawing_source(run: Run) -> str | None:
    """Return whose drawings the images of a run are; None for pictures of a folder's own."""
    data = str(run.settings["data"])
    return "mnist" if data.endswith((".pkl", ".pkl.gz")) else data if data in SOURCES else None


def picture_input(run: Run, content: bytes) -> tuple[Tensor, str]:
    """Return a picture as the training's were, (1, channels, height, width), and how it was made.

    One of another size than the images of a dataset of drawings is taken for a drawing, and
    prepared as those of this `source` were. Others are fitted, by a `resize`.
    """
    shape, source, resize = image_shape(run), drawing_source(run), run.config.resize
    try:
        if source is not None and not is_of_size(content, shape):
            pixels, how = prepare_drawing(content, source), source
        else:
            pixels, how = read_image(content, shape, resize), resize or "crop"
    except BadImageError as error:
        raise HTTPException(422, {"text": "no_picture", "error": str(error)}) from error
    return bytes_to_floats(torch.from_numpy(pixels).unsqueeze(0)), how


def rows_input(run: Run, rows: list[dict[str, Value]]) -> Tensor:
    return table_inputs(run, [as_written(run, row) for row in rows])


def answer(own: Tried, xb: Tensor) -> dict[str, Any]:
    found = own.found(xb)
    target = own.run.target
    if target.task != SEGMENTATION:
        return readable(target, found)[0]
    classes = found[0].argmax(0)
    shares = torch.bincount(classes.flatten(), minlength=len(target.names)) / classes.numel()
    return {
        "overlaid": seen(overlaid(xb[0], classes)[None]),
        "shares": [
            {"name": target.names[at], "share": float(shares[at]), "colour": COLOURS[at].tolist()}
            for at in shares.argsort(descending=True).tolist()
            if shares[at] > 0
        ],
    }


def seen(xb: Tensor) -> str:
    pixels = (xb[0] * 256).clamp(0, 255).byte().permute(1, 2, 0).squeeze(-1)
    return data_uri(Image.fromarray(pixels.numpy()))


def signed(values: Tensor) -> Image.Image:
    """Return numbers as a picture: one colour above 0, another below, transparent at 0."""
    strength = (values / values.abs().max().clamp_min(1e-30)).numpy()
    colours = np.where(strength[..., None] > 0, UP, DOWN)
    alpha = np.abs(strength)[..., None] * 255
    return Image.fromarray(np.concatenate([colours, alpha], 2).astype(np.uint8), "RGBA")


def layer(name: str, values: Tensor) -> dict[str, Any]:
    if values.dim() == 1:
        side = int(np.ceil(len(values) ** 0.5))
        square = torch.zeros(-(-len(values) // side) * side)
        square[: len(values)] = values
        shown = square.view(1, -1, side)
    else:
        shown = values[:MOST_MAPS]
    maps = [data_uri(signed(one)) for one in shown]
    return {"name": name, "shape": [*values.shape], "maps": maps}

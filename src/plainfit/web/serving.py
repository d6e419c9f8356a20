"""`plainfit serve`: the model of a run over HTTP; samples that arrive together are one batch."""

import asyncio
import json
import os
import warnings
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, NamedTuple

import torch
from fastapi import Body, FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import WithJsonSchema
from pydantic_core import to_json
from starlette.requests import ClientDisconnect
from torch import Tensor, nn

from plainfit.common.errors import PlainfitError, RunError, reason, shortened
from plainfit.data.datasets import bytes_to_floats
from plainfit.data.decoding import BadImageError, read_image
from plainfit.data.tables.reading import frame_columns
from plainfit.data.targets import SEGMENTATION
from plainfit.runs.folder import Run, open_run
from plainfit.runs.inference import outputs_of
from plainfit.runs.inputs import image_shape, of_table
from plainfit.runs.predict import best_output, readable
from plainfit.web.limits import LimitedBody, OwnHost

SERVED = "PLAINFIT_SERVED"  # in the environment of workers: the arguments of `worker`, as JSON


class Limits(NamedTuple):
    """What a server takes, so that its memory and its answers stay within bounds."""

    body: int = 32 * 2**20
    """Bytes of a request."""
    samples: int = 256
    """In a request, and in a batch."""
    waiting: int = 1024
    """Requests that wait; more are answered with 503."""
    seconds: float = 30.0
    """For an answer, until 504."""
    memory: int = 2**30
    """Bytes of all bodies that are being read, and of all samples that wait; 503 for more."""


class Batches:
    """Gives a model the samples of all requests that wait, as one batch, in a thread of its own.

    Nothing waits for a batch to fill: while the model computes one, the next one gathers.
    """

    def __init__(self, predict: Callable[[Tensor], Iterable[Any]], limits: Limits) -> None:
        self.predict = predict
        self.limits = limits
        self.held = 0  # bytes of the samples that wait
        self.waiting: asyncio.Queue[tuple[Tensor, asyncio.Future[list[Any]]]] = asyncio.Queue()
        self.pool = ThreadPoolExecutor(1)

    async def answer(self, xb: Tensor) -> list[Any]:
        is_full = self.held and self.held + xb.nbytes > self.limits.memory
        if is_full or self.waiting.qsize() >= self.limits.waiting:
            raise HTTPException(503, "too many requests are waiting", {"Retry-After": "1"})
        self.held += xb.nbytes
        future = asyncio.get_running_loop().create_future()
        self.waiting.put_nowait((xb, future))
        try:
            return await asyncio.wait_for(future, self.limits.seconds)
        except TimeoutError as error:
            raise HTTPException(504, f"no answer within {self.limits.seconds:g} s") from error

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            taken = [await self.waiting.get()]
            samples = len(taken[0][0])
            while self.waiting.qsize() and samples < self.limits.samples:
                taken.append(self.waiting.get_nowait())
                samples += len(taken[-1][0])
            self.held -= sum(xb.nbytes for xb, _ in taken)
            taken = [(xb, future) for xb, future in taken if not future.done()]  # timed out
            if not taken:
                continue
            try:
                whole = torch.cat([xb for xb, _ in taken])
                found = await loop.run_in_executor(self.pool, self.predict, whole)
            except Exception as error:
                failed = HTTPException(500, f"the model failed with {reason(error)}")
                for _, future in taken:
                    if not future.done():
                        future.set_exception(failed)
                continue
            rows = iter(found)
            for xb, future in taken:
                own = [*islice(rows, len(xb))]
                if not future.done():
                    future.set_result(own)


REFUSALS = {
    400: "The body is not what its content type says.",
    403: "The request is not for this machine's own address, or comes from a page elsewhere.",
    413: "The body is too large.",
    422: "The request is not as it is described here, or what it holds cannot be taken.",
    503: "Too many requests are being read or wait; try again.",
}
VALUE = {"type": ["string", "number", "boolean", "null"]}  # of a row


def described_app(
    title: str, refusals: dict[int, str], detail: Any = "string", **options: Any
) -> FastAPI:
    """Return an application whose description has these statuses, each with a detail of a type."""
    schema = {"type": "object", "required": ["detail"], "properties": {"detail": {"type": detail}}}
    content = {"application/json": {"schema": schema}}
    responses: dict[int | str, dict[str, Any]] = {
        status: {"description": text, "content": content} for status, text in refusals.items()
    }
    app = FastAPI(title=title, responses=responses, docs_url=None, redoc_url=None, **options)
    app.add_exception_handler(PlainfitError, refused)
    app.add_exception_handler(RequestValidationError, refused)
    return app


@torch.no_grad()
def outputs(model: nn.Module, finish: Callable[[Any], Tensor], xb: Tensor) -> Tensor:
    return finish(model(xb))


LIMITS = Limits()
IMAGE = {"type": "string", "contentMediaType": "application/octet-stream"}
FILES = {"type": "array", "items": IMAGE}
FORM = {"type": "object", "properties": {"images": FILES}, "required": ["images"]}
KINDS = {"multipart/form-data": {"schema": FORM}, "image/*": {"schema": IMAGE}}


def create_app(run: Run, name: str, limits: Limits = LIMITS, *, any_host: bool = False) -> FastAPI:
    """Return the ASGI application for a run, whose model is loaded and in `eval()` mode.

    Raises:
        RunError: if its data cannot be sent: a segmentation, or arrays.
    """
    if run.target.task == SEGMENTATION:
        raise RunError("a segmentation answers with pictures: use plainfit predict RUN -o FOLDER")
    finish = outputs_of(run)[best_output(run)]

    def predict(xb: Tensor) -> list[dict[str, Any]]:
        floats = bytes_to_floats(xb) if xb.dtype == torch.uint8 else xb
        return readable(run.target, outputs(run.model, finish, floats))

    batches = Batches(predict, limits)

    @asynccontextmanager
    async def running(app: FastAPI) -> AsyncIterator[None]:
        worker = asyncio.create_task(batches.run())
        yield
        worker.cancel()
        batches.pool.shutdown()

    late = {500: "The model failed.", 504: f"There was no answer within {limits.seconds:g} s."}
    app = described_app(f"plainfit {name}", REFUSALS | late, lifespan=running)
    app.add_exception_handler(ClientDisconnect, refused)  # nobody reads the answer
    if not any_host:
        app.add_middleware(OwnHost)
    app.add_middleware(LimitedBody, most=limits.body, together=limits.memory)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """Say that the server answers, and what it predicts."""
        return {"status": "ok", "run": name, "task": run.target.task, "names": run.target.names}

    if "columns" in run.preprocessing:
        row = {"type": "object", "required": [*run.columns], "additionalProperties": VALUE}

        @app.post("/predict")
        async def predict_rows(
            rows: Annotated[
                list[Annotated[dict[str, Any], WithJsonSchema(row)]],
                Body(min_length=1, max_length=limits.samples),
            ],
        ) -> list[dict[str, Any]]:
            """Predict rows of the table, each an object with the columns of the training."""
            return await batches.answer(await asyncio.to_thread(table_inputs, run, rows))

    else:
        shape = image_shape(run)

        async def predict_images(request: Request) -> Response:
            """Predict images, each a file of the form's field `images`, or one that is the body."""
            if request.headers.get("content-type", "").startswith("image/"):
                images = [("the body", await request.body())]
            else:
                async with request.form() as form:
                    files = [each for each in form.getlist("images") if not isinstance(each, str)]
                    images = [(file.filename or "", await file.read()) for file in files]
            if not 1 <= len(images) <= limits.samples:
                raise HTTPException(
                    422,
                    f"a request must have 1 to {limits.samples} images, in the form's field "
                    f"`images` or as its body, got {len(images)}",
                )
            xb = await asyncio.to_thread(image_bytes, run, shape, images)
            content = to_json(await batches.answer(xb), inf_nan_mode="null")
            return Response(content, media_type="application/json")

        # The first route answers, at less cost; the second one is its entry in /openapi.json.
        app.add_route("/predict", predict_images, ["POST"], include_in_schema=False)
        body = {"requestBody": {"content": KINDS, "required": True}}
        answer = list[dict[str, Any]]
        app.post("/predict", response_model=answer, openapi_extra=body)(predict_images)

    return app


def worker() -> FastAPI:
    folder, name, workers, trust_code, any_host = json.loads(os.environ[SERVED])
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))
    warnings.simplefilter("ignore", RuntimeWarning)  # what is noted of a table, for each request
    return create_app(open_run(Path(folder), trust_code=trust_code), name, any_host=any_host)


def image_bytes(
    run: Run, shape: tuple[int, int, int], images: Sequence[tuple[str, bytes]]
) -> Tensor:
    pixels = []
    for name, content in images:
        try:
            pixels.append(torch.from_numpy(read_image(content, shape, run.config.resize)))
        except BadImageError as error:
            text = f"every image must be readable, and {name!r} is {error}"
            raise HTTPException(422, text) from error
    return torch.stack(pixels)


def table_inputs(run: Run, rows: Sequence[dict[str, Any]]) -> Tensor:
    import pyarrow

    if short := [name for row in rows for name in run.columns if name not in row]:
        raise HTTPException(
            422, f"every row must have the training's columns, one lacks {short[0]!r}"
        )
    plain = (str, int, float, NoneType)  # bool is an int
    if wrong := [name for row in rows for name, of in row.items() if not isinstance(of, plain)]:
        raise HTTPException(
            422, f"a value must be a number, a text, true, false or null: {wrong[0]!r}"
        )
    try:
        frame = pyarrow.Table.from_pylist([*rows])
    except (pyarrow.ArrowException, TypeError, ValueError, OverflowError) as error:
        text = f"a column must have values of one kind: {reason(error)}"
        raise HTTPException(422, text) from error
    inputs, _ = of_table(run, frame_columns(frame), None, labelled=False)
    return inputs


async def refused(request: Request, error: Exception) -> JSONResponse:
    """Answer what is wrong with a request, without what it sent, which may be no JSON again."""
    text = str(error)
    if isinstance(error, RequestValidationError):
        found = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
        text = f"the request must be as /openapi.json says: {shortened(found)}"
    return JSONResponse({"detail": text.encode("utf-8", "backslashreplace").decode()}, 422)

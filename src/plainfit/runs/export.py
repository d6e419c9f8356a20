"""A run's model as a file that runs without plainfit, written once its scores are checked.

Every file holds the same facts as JSON, under the name `plainfit`: the classes, the shape and
preprocessing of the input, and how the model was built.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from plainfit.common import __version__
from plainfit.common.errors import ConfigError, PlainfitError, RunError, raised_as, unknown_name
from plainfit.data import alone
from plainfit.data.datasets import bytes_to_floats
from plainfit.data.loaders import make_loader
from plainfit.data.splits import OF_IMAGE_FILES
from plainfit.data.targets import CLASSIFICATION, MULTI_LABEL, REGRESSION, SEGMENTATION, Target
from plainfit.runs import folder as runs
from plainfit.runs.export_formats import FORMATS, Facts, cause, check_packages, make_snippet
from plainfit.runs.folder import Run

SIZES = (1, 2, 64)  # a library may have a kernel of its own for a batch of one
MAX_SAMPLES = 4 * SIZES[-1]


@dataclass(frozen=True)
class ExportResult:
    """An exported file, and how its scores compare with the model's."""

    path: Path
    format: str
    bytes: int
    difference: float
    """The largest difference between a score of the file and the model's."""
    tolerance: float
    """The largest that is allowed: the format's tolerance, times the largest score (at least 1)."""
    checked_on: str
    facts: Facts
    snippet: str
    """Plain Python that loads and runs the file."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"path": str(self.path)}

    def __str__(self) -> str:
        x, scores = self.facts["input"], self.facts["output"]
        shapes = [f"({', '.join(map(str, part['shape']))})" for part in (x, scores)]
        return (
            f"file   {self.path}: {self.format}, {self.bytes:,} bytes\n"
            f"input  {x['name']}: {x['dtype']} {shapes[0]}, {x['values']}\n"
            f"output {scores['name']}: {shapes[1]}, {scores['values']}\n"
            f"check  {self.checked_on}: scores differ by at most {self.difference:.1e} "
            f"({self.tolerance:.1e} is allowed)"
        )


@raised_as(RunError, "an export needs the run's model")
def export_run(
    run: Run, format: str | None = None, out: Path | None = None, *, force: bool = False
) -> ExportResult:
    """Write a run's model as a file, after checking that it gives the model's scores.

    The file is read back and compared on the run's validation set, or on random bytes where that
    can no longer be opened. It takes float32 of shape (batch, channels, height, width) or
    (batch, features), or int64 of shape (batch, words), for any batch size, and gives scores of
    shape (batch, classes). For a table, `prepare.py` beside it makes those of the columns.

    Args:
        run: from `plainfit.runs.folder.open_run`.
        format: `safetensors` (the weights alone), `torch-export` (a `.pt2` file for
            `torch.export.load`) or `onnx` (needs `plainfit[onnx]`); by default what `out` ends
            with says, or else safetensors.
        out: path of the file; by default `export` in the run folder, with the format's suffix.
        force: overwrite an existing file.

    Raises:
        ConfigError: if the format or the path cannot be used, or a package is missing.
        ModelError: if the model cannot be traced.
        RunError: if the file cannot be written, or differs from the model; an existing file is
            kept then.
    """
    suffixes = {kind.suffix: name for name, kind in FORMATS.items()}
    if format is None:
        format = "safetensors" if out is None else suffixes.get(out.suffix)
    if format is None:
        raise ConfigError(f"must end with {', '.join(suffixes)}, got {out}", field="out")
    if format not in FORMATS:
        raise ConfigError(unknown_name("format", format, FORMATS))
    kind = FORMATS[format]
    path = out or run.folder / f"export{kind.suffix}"
    if path.suffix != kind.suffix:
        raise ConfigError(
            f"a {format} file must be called NAME{kind.suffix}, got {path.name}; the format "
            "follows from the name if it is left out"
        )
    runs.check_new_file(path, force)
    code = path.with_name("prepare.py") if "columns" in run.preprocessing else None
    loader = Path(alone.__file__).read_bytes()
    if code is not None and not (code.is_file() and code.read_bytes() == loader):
        runs.check_new_file(code, force)
    check_packages(format)
    xb, checked_on = samples_of(run)
    facts = facts_of(run)
    found: list[float] = []

    def check(temporary: Path) -> None:
        try:
            call = kind.reopen(temporary, run)
        except Exception as error:  # each library has errors of its own
            raise RunError(
                f"the {format} file must load again, and failed with {cause(error)}; nothing was "
                "written"
            ) from error
        found.extend(compare(format, run.model, call, xb, kind.tolerance))

    runs.write_output(path, kind.to_bytes(run.model, facts), check)
    if code is not None:
        runs.write_output(code, loader)
    size, snippet = path.stat().st_size, make_snippet(format, path, facts)
    return ExportResult(path, format, size, found[0], found[1], checked_on, facts, snippet)


def facts_of(run: Run) -> Facts:
    record, made = run.record["data"], run.preprocessing
    shape = record["input_shape"]
    sides = shape[1:] if run.target.task == SEGMENTATION else []
    dtype = str(run.samples(0).dtype).removeprefix("torch.")
    values = f"numbers {made['values']} of the training"
    if "columns" in made:
        values = 'prepare(table, facts["preprocessing"]) of prepare.py'
    elif made in OF_IMAGE_FILES:
        colors = "gray" if made["mode"] == "L" else made["mode"]
        values = f"the bytes of {colors} images divided by 256, in [0, 1)"
    return {
        "plainfit": __version__,
        "torch": str(torch.__version__),
        "model": run.record["model"],
        **run.target.to_dict(),
        "features": record["features"],
        "preprocessing": made,
        "input": {"name": "x", "dtype": dtype, "shape": ["batch", *shape], "values": values},
        "output": {
            "name": "scores",
            "shape": ["batch", len(run.target.names), *sides],
            "values": outputs_text(run.target),
        },
    }


def outputs_text(target: Target) -> str:
    return {
        CLASSIFICATION: "one score a class, before softmax",
        MULTI_LABEL: "one score a label, before sigmoid",
        REGRESSION: "one output a target, (number - mean) / std",
        SEGMENTATION: "one score a class and pixel, before softmax",
    }[target.task]


def samples_of(run: Run) -> tuple[Tensor, str]:
    """Return samples, shape (samples, ...), and what they are."""
    sizes = f"in batches of {', '.join(map(str, SIZES[:-1]))} and {SIZES[-1]}"
    try:
        data = run.open_data()
        loader = make_loader(data.valid, SIZES[-1], False)
        xb = torch.cat([batch[0] for batch in islice(loader, MAX_SAMPLES // SIZES[-1])])
        return xb, f"{len(xb)} validation samples of {data.name}, {sizes}"
    except PlainfitError as error:  # reading may fail too, where an image has disappeared
        why = str(error)
    zeros, generator = run.samples(MAX_SAMPLES), torch.Generator().manual_seed(0)
    what, most = ("bytes", 256) if run.vocabulary is None else ("words", run.vocabulary)
    xb = torch.randint(most, zeros.shape, generator=generator)
    because = f"because the validation set cannot be opened ({why})"
    xb = xb if zeros.dtype == xb.dtype else bytes_to_floats(xb)
    return xb, f"{MAX_SAMPLES} samples of random {what}, {sizes}, {because}"


def batches(xb: Tensor) -> list[Tensor]:
    """Split into batches of each of the sizes; too few samples are repeated."""
    xb = xb[torch.arange(max(SIZES[-1], len(xb))) % len(xb)]
    return [*(xb[:size] for size in SIZES[:-1]), *xb.split(SIZES[-1])]


def compare(
    format: str, model: nn.Module, call: Callable[[Tensor], Any], xb: Tensor, tolerance: float
) -> tuple[float, float]:
    """Return the largest difference of scores between model and file, and the largest allowed.

    The best class must be the same too, where the model's two best are further apart than that.
    """
    pairs = [score(format, model, call, part) for part in batches(xb)]
    ours, theirs = (torch.cat(scores) for scores in zip(*pairs, strict=True))
    allowed = tolerance * max(1.0, float(ours.abs().max()))
    difference = (ours - theirs).abs().max().item()
    best = ours.topk(min(2, ours.shape[1]), dim=1).values
    clear = best[:, 0] - best[:, -1] > allowed
    others = int(((ours.argmax(1) != theirs.argmax(1)) & clear).sum())
    if not difference <= allowed or others:  # NaN is neither
        raise RunError(
            f"the scores of the {format} file must be within {allowed:.1e} of the model's, and "
            f"differ by {difference:.1e}, and name another class for {others} samples; nothing was "
            "written"
        )
    return difference, allowed


def score(
    format: str, model: nn.Module, call: Callable[[Tensor], Any], xb: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the scores of the model and of the file, both with the same random numbers."""
    found = []
    for what in (model, call):
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                found.append(what(xb))
        except Exception as error:  # each library has errors of its own
            raise RunError(
                f"the model and the {format} file must take batches of {len(xb)}, and one failed "
                f"with {cause(error)}; nothing was written"
            ) from error
    ours, theirs = found
    if not ours.isfinite().all():
        raise RunError(
            "the model's scores must be finite to be compared, and are not; nothing was written"
        )
    if theirs.shape != ours.shape or ours.shape[:1] != (len(xb),):
        raise RunError(
            f"the model and the {format} file must give one row of scores a sample, and for "
            f"{len(xb)} gave shapes {tuple(ours.shape)} and {tuple(theirs.shape)}; nothing was "
            "written"
        )
    return ours, theirs

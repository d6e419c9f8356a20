"""`export_run`: a file is put in place once it gives the scores that the model gives.

Every file carries the same facts as JSON, under the name `plainfit`: the classes, the shape and
preprocessing of the input, and how the model was made.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from plainfit.common import __version__
from plainfit.common.errors import ConfigError, RunError, unknown_name
from plainfit.data.loaders import ImageDataset
from plainfit.data.ondisk import LazyImages
from plainfit.data.splits import DataSplits
from plainfit.runs import folder as runs
from plainfit.runs.export.check import compare, reopen_data, take_samples
from plainfit.runs.export.formats import FORMATS, Facts, cause, check_packages, make_snippet


@dataclass(frozen=True)
class ExportResult:
    """A file that was written, and how it compared with the model."""

    path: Path
    format: str
    bytes: int
    difference: float
    """The largest between a score of the file and the model's."""
    tolerance: float
    """What it could have been: the format's tolerance, times the largest score (at least 1)."""
    checked_on: str
    facts: Facts
    """What the file says of itself."""
    snippet: str
    """Plain Python that loads and runs the file."""

    def to_dict(self) -> dict[str, Any]:
        """Return the result for machines."""
        return asdict(self) | {"path": str(self.path)}

    def __str__(self) -> str:
        x, scores = self.facts["input"], self.facts["output"]
        return "\n".join(
            [
                f"file   {self.path}: {self.format}, {self.bytes:,} bytes",
                f"input  {x['name']}: {x['dtype']} {in_brackets(x['shape'])}, {x['values']}",
                f"output {scores['name']}: {in_brackets(scores['shape'])}, {scores['values']}",
                f"check  {self.checked_on}: scores differ by at most {self.difference:.1e} "
                f"({self.tolerance:.1e} is allowed)",
            ]
        )


def in_brackets(shape: list[Any]) -> str:
    """Return a shape as text.

    >>> in_brackets(["batch", 1, 8, 8])
    '(batch, 1, 8, 8)'
    """
    return f"({', '.join(map(str, shape))})"


def export_run(
    run: runs.Run, format: str, out: Path | None = None, *, force: bool = False
) -> ExportResult:
    """Write a run's model as a file for elsewhere, once it gives the scores that the model gives.

    The file is read again and compared on the run's validation set, or on random bytes where that
    can no longer be opened. It takes float32 of shape (batch, channels, height, width) or
    (batch, features), for any batch size, and gives scores of shape (batch, classes).

    Args:
        run: as `plainfit.runs.folder.read_run` returns it.
        format: `safetensors` (the weights alone), `torch-export` (a `.pt2` file for
            `torch.export.load`) or `onnx` (needs `plainfit[onnx]`).
        out: where to; by default `export` in the run folder, with the suffix of the format.
        force: write over a file that is there.

    Raises:
        ConfigError: if the format or the path cannot be used, or a package is missing.
        ModelError: if the model cannot be traced.
        RunError: if the file cannot be written, or differs from the model; what was there before
            is there still then, and nothing else.
    """
    if format not in FORMATS:
        raise ConfigError(unknown_name("format", format, FORMATS))
    kind = FORMATS[format]
    path = run.folder / f"export{kind.suffix}" if out is None else out
    check_path(path, run, format, force)
    check_packages(format)
    data, problem = reopen_data(run)
    xb, checked_on = take_samples(run, data, problem)
    facts = describe(run, data)
    found: list[float] = []

    def write(scratch: Path) -> None:
        kind.write(scratch, run.model, facts)
        try:
            call = kind.reopen(scratch, run)
        except Exception as error:  # each library has errors of its own
            raise RunError(
                f"the {format} file must load again, and failed with {cause(error)}; nothing was "
                "written"
            ) from error
        found.extend(compare(format, run.model, call, xb, kind.tolerance))

    runs.write_whole(path, write)
    size, snippet = path.stat().st_size, make_snippet(format, path, facts)
    return ExportResult(path, format, size, found[0], found[1], checked_on, facts, snippet)


def check_path(path: Path, run: runs.Run, format: str, force: bool) -> None:
    """Check that a file may be put there."""
    suffix = FORMATS[format].suffix
    if path.suffix != suffix:
        raise ConfigError(f"a {format} file must be called NAME{suffix}, got {path.name}")
    if not path.parent.is_dir():
        raise ConfigError(f"the folder {path.parent} must be there, and is not; make it first")
    if path.is_dir():
        raise ConfigError(f"{path} must be a file, and is a folder; choose another name")
    if path.resolve() in [(run.folder / name).resolve() for name in (runs.WEIGHTS, runs.BEST)]:
        raise ConfigError(f"{path} must not be the run's own file of weights; choose another name")
    if path.exists() and not force:
        raise ConfigError(f"{path} must be a new file, and is there already; --force replaces it")


def describe(run: runs.Run, data: DataSplits | None) -> Facts:
    """Return what a file says of itself, as JSON can hold it."""
    record = run.record["data"]
    shape, classes = record["input_shape"], record["classes"]
    values = "numbers as in the training data"
    if record["features"]:
        values = "the columns in `features`, standardised as in training"
    elif data is not None and isinstance(data.valid, ImageDataset | LazyImages):
        values = "the bytes of images divided by 256, in [0, 1)"
    elif data is None:
        values += "; the bytes of images divided by 256, in [0, 1)"
    return {
        "plainfit": __version__,
        "torch": str(torch.__version__),
        "model": run.record["model"],
        "classes": classes,
        "features": record["features"],
        "input": {"name": "x", "dtype": "float32", "shape": ["batch", *shape], "values": values},
        "output": {
            "name": "scores",
            "shape": ["batch", len(classes)],
            "values": "one score a class, before softmax",
        },
    }

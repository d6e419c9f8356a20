"""A run's model as a file that runs without plainfit, written once its scores are checked.

Every file holds the same facts as JSON, under the name `plainfit`: the classes, the shape and
preprocessing of the input, and how the model was built.
"""

import importlib
import io
import json
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram

from plainfit.common import __version__
from plainfit.common.errors import (
    ConfigError,
    ModelError,
    PlainfitError,
    RunError,
    raised_as,
    unknown_name,
)
from plainfit.data import alone
from plainfit.data.datasets import bytes_to_floats
from plainfit.data.loaders import make_loader
from plainfit.data.splits import OF_IMAGE_FILES
from plainfit.data.targets import CLASSIFICATION, MULTI_LABEL, REGRESSION, SEGMENTATION
from plainfit.models.weights import load_model, weights_to_bytes
from plainfit.runs import folder as runs
from plainfit.runs.folder import Run

SIZES = (1, 2, 64)  # a library may have a kernel of its own for a batch of one
MAX_SAMPLES = 4 * SIZES[-1]
Facts = dict[str, Any]
FACTS = "plainfit"  # the name of the facts in a file
ANY_BATCH_SIZE = ({0: Dim("batch")},)  # the first dimension of the input is free
OPSET = 18  # the one that torch translates to; it converts others from this one
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
NOISY_LOGGERS = (
    "torch.fx.experimental.symbolic_shapes",  # no line of code to point at
    "torch.onnx._internal.exporter._registration",  # torchvision is not installed
)
# Of the largest score. Measured with logistic, mlp, cnn and resnet trained on digits and on MNIST,
# one thread and two, batches of 1 to 256: torch-export 0; onnx 9.5e-6 in scores up to 29, which is
# 5e-7 of them: it adds in another order, and rounds at 6e-8.
TOLERANCE = 1e-5
OUTPUTS = {
    CLASSIFICATION: "one score a class, before softmax",
    MULTI_LABEL: "one score a label, before sigmoid",
    REGRESSION: "one output a target, (number - mean) / std",
    SEGMENTATION: "one score a class and pixel, before softmax",
}


@dataclass(frozen=True)
class Format:
    suffix: str
    to_bytes: Callable[[nn.Module, Facts], bytes]
    reopen: Callable[[Path, Run], Callable[[Tensor], Any]]
    tolerance: float
    """The largest difference from the model's scores, as a share of the largest score."""


def to_safetensors(model: nn.Module, facts: Facts) -> bytes:
    return weights_to_bytes(model, {FACTS: json.dumps(facts)})


def reopen_safetensors(path: Path, run: Run) -> nn.Module:
    """Load the weights into a new model; compare all, even those that no score depends on."""
    model = run.factory.build_quietly()
    load_model(model, path)
    ours, theirs = run.model.state_dict(), model.state_dict()
    if differing := [name for name in ours if not torch.equal(ours[name], theirs[name])]:
        raise RunError(f"{', '.join(differing)} must equal the model's")
    return model.eval()


def to_torch_export(model: nn.Module, facts: Facts) -> bytes:
    program = trace(model, facts)
    content = io.BytesIO()
    with failing_as_model_error(model, "torch.export"):
        torch.export.save(program, content, extra_files={f"{FACTS}.json": json.dumps(facts)})
    return content.getvalue()


def trace(model: nn.Module, facts: Facts) -> ExportedProgram:
    # Of two samples, since torch fixes the size of a batch of one.
    x = torch.zeros(2, *facts["input"]["shape"][1:], dtype=getattr(torch, facts["input"]["dtype"]))
    with failing_as_model_error(model, "torch.export"), torch.no_grad(), quiet_torch():
        program = torch.export.export(model, (x,), dynamic_shapes=ANY_BATCH_SIZE)
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # it has paths of this machine
    return program


def reopen_torch_export(path: Path, run: Run) -> nn.Module:
    with warnings.catch_warnings():
        # torch 2.10 warns about its own way of reading the weights.
        warnings.filterwarnings("ignore", "The given buffer is not writable", UserWarning)
        module: nn.Module = torch.export.load(io.BytesIO(path.read_bytes())).module()
    return module


def to_onnx(model: nn.Module, facts: Facts) -> bytes:
    # Given the model itself, torch.onnx silently fixes a batch size that it cannot trace.
    program = trace(model, facts)
    with failing_as_model_error(model, "torch.onnx.export"), quiet_torch():
        translated = torch.onnx.export(
            program,
            dynamo=True,
            dynamic_shapes=ANY_BATCH_SIZE,  # for its name
            input_names=[facts["input"]["name"]],
            output_names=[facts["output"]["name"]],
            opset_version=OPSET,
            verbose=False,
        )
        assert translated is not None  # with dynamo
        translated.model.metadata_props[FACTS] = json.dumps(facts)
        content: bytes = translated.model_proto.SerializeToString()
    return content


def reopen_onnx(path: Path, run: Run) -> Callable[[Tensor], Tensor]:
    runtime = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors only: a wrong shape is reported by `compare`
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda xb: torch.from_numpy(session.run(["scores"], {"x": xb.numpy()})[0])


@contextmanager
def quiet_torch() -> Iterator[None]:
    """Silence torch's warnings to its own developers; errors are still raised."""
    levels = {logger: logger.level for logger in map(logging.getLogger, NOISY_LOGGERS)}
    try:
        for logger in levels:
            logger.setLevel(logging.ERROR)
        # If tracing fails, torch prints the graph so far.
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            # torch 2.10 to 2.13 calls a deprecated function of its own.
            warnings.filterwarnings("ignore", r".*treespec, LeafSpec", FutureWarning)
            yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)


def check_packages(format: str) -> None:
    for package in ONNX_PACKAGES if format == "onnx" else ():
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ConfigError(
                f"onnx files need the package {package}, which cannot be imported ({error}): "
                "pip install 'plainfit[onnx]'"
            ) from error


@contextmanager
def failing_as_model_error(model: nn.Module, tool: str) -> Iterator[None]:
    try:
        yield
    except OSError:
        raise
    except ImportError as error:  # an older onnxscript lacks names that a newer torch imports
        raise ConfigError(
            f"{tool} must find packages that fit torch {torch.__version__}, and failed with "
            f"{cause(error)}; pip install --upgrade 'plainfit[onnx]'"
        ) from error
    except Exception as error:
        raise ModelError(
            f"{tool} must be able to follow {type(model).__name__}.forward for any batch size, and "
            f"failed with {cause(error)}; use tensor operations only, or export as safetensors"
        ) from error


def cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    lines = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__


def make_snippet(format: str, path: Path, facts: Facts) -> str:
    module, _, name = facts["model"]["target"].partition(":")
    note = ""
    if module in ("plainfit.models.networks", "plainfit.models.text"):
        module = module.rpartition(".")[2]
        note = f"  # a copy of plainfit/models/{module}.py"
    environment = Environment(
        loader=PackageLoader("plainfit.runs"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("snippet.py.jinja").render(
        format=format,
        path=repr(str(path)),
        shape=", ".join(map(str, [2, *facts["input"]["shape"][1:]])),
        dtype=facts["input"]["dtype"],
        values=facts["input"]["values"],
        model_import=f"from {module} import {name.partition('.')[0]}{note}",
        model=name,
        task=facts["task"],
    )


FORMATS = {
    "safetensors": Format(".safetensors", to_safetensors, reopen_safetensors, 0.0),
    "torch-export": Format(".pt2", to_torch_export, reopen_torch_export, TOLERANCE),
    "onnx": Format(".onnx", to_onnx, reopen_onnx, TOLERANCE),
}


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
            "values": OUTPUTS[run.target.task],
        },
    }


def samples_of(run: Run) -> tuple[Tensor, str]:
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

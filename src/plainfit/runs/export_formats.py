"""The formats of an export: how to write a file, read it back, and use it from plain Python."""

import importlib
import io
import json
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram

from plainfit.common.errors import ConfigError, ModelError, RunError
from plainfit.models.weights import load_model, weights_to_bytes
from plainfit.runs.folder import Run

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
    """Return the first cause of an error, on one line."""
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

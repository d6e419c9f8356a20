"""Running a script, and comparing what it gives with the training that it was made from."""

import inspect
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plainfit.common import devices
from plainfit.common.devices import ISA_VARIABLES
from plainfit.common.errors import EjectError
from plainfit.eject import alone
from plainfit.eject.outcome import Outcome

MOST_ULP = 2  # of a loss at level tensors: its mean is in the order of the CPU's kernel
MOST_APART = 1e-12  # relative, in float64, at level math


@dataclass(frozen=True)
class Verdict:
    """The result of a comparison."""

    holds: bool
    text: str


@dataclass(frozen=True)
class Given:
    """What a script gave, and the fingerprint of the process that ran it."""

    losses: list[float]
    weights: dict[str, Tensor]
    fingerprint: dict[str, Any]

    def differs_from(self, recorded: dict[str, Any]) -> str:
        """Return what differs from a recorded fingerprint; empty if nothing does."""
        return "; ".join(
            f"{name} was {recorded[name]}, is {value}"
            for name, value in self.fingerprint.items()
            if name in recorded and recorded[name] != value  # an older run has fewer facts
        )


def run_alone(script: Path, fingerprint: dict[str, Any], steps: int | None = None) -> Given:
    """Run a script in a fresh process, in an empty folder, where plainfit cannot be imported.

    Args:
        script: its path.
        fingerprint: of the recorded training; its variables are set.
        steps: stop after this many.

    Raises:
        EjectError: if the script fails.
    """
    from safetensors.torch import load_file

    environment = {k: v for k, v in os.environ.items() if k not in ISA_VARIABLES}
    environment |= fingerprint["isa_variables"]
    with tempfile.TemporaryDirectory(prefix="plainfit-eject-") as folder:
        report, weights = Path(folder) / "report.json", Path(folder) / "model.safetensors"
        arguments = [str(script.resolve()), str(report), str(steps or 0)]
        done = subprocess.run(
            [sys.executable, "-c", program(), *arguments],
            capture_output=True, text=True, cwd=folder, env=environment, check=False,
        )  # fmt: skip
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise EjectError(f"{script} must run by itself, and failed: {last}")
        found = json.loads(report.read_text())
        tensors = load_file(weights) if weights.exists() else {}
    return Given(found["losses"], tensors, found["fingerprint"])


def program() -> str:
    """Return the program that runs a script: `alone`, and the function it takes from `devices`."""
    facts = inspect.getsource(devices.fingerprint)
    own = Path(alone.__file__).read_text(encoding="utf-8")
    imports = "import os\nfrom typing import Any\n\nimport torch"
    return f"{imports}\n\nISA_VARIABLES = {ISA_VARIABLES!r}\n\n\n{facts}\n\n{own}"


def compare(
    script: Given, run: Outcome, level: str, steps: int | None, per_epoch: int | None
) -> Verdict:
    """Compare a script's losses and weights with those of the training, as its level promises."""
    losses = run.losses[:steps]
    if len(script.losses) != len(losses):
        return Verdict(
            False, f"the run took {len(losses)} steps, and the script {len(script.losses)}"
        )
    near = at_most_ulp(MOST_ULP) if level == "tensors" else equal
    for step, (ours, theirs) in enumerate(zip(script.losses, losses, strict=True)):
        if not near(ours, theirs):
            where = f" (epoch {step // per_epoch})" if per_epoch else ""
            return Verdict(
                False,
                f"the loss of step {step}{where} differs first: {theirs!r} in the run, {ours!r} in "
                "the script",
            )
    same = "equal" if all(map(equal, script.losses, losses)) else f"equal within {MOST_ULP} ulp"
    if steps is not None and steps < len(run.losses):
        return Verdict(True, f"the losses of the first {steps} steps are {same}")
    if differing := first_difference(script.weights, run.weights):
        return Verdict(False, f"all losses are {same}, and the weights are not: {differing}")
    return Verdict(
        True,
        f"{len(losses)} losses are {same} and {len(run.weights)} tensors are equal, bit for bit",
    )


def first_difference(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> str:
    """Name the first tensor that differs; nothing, if all are equal."""
    if missing := theirs.keys() ^ ours.keys():
        return f"{min(missing)} is in one of them only"
    for name, tensor in theirs.items():
        mine = ours[name]
        if (mine.shape, mine.dtype) != (tensor.shape, tensor.dtype):
            return f"{name} is {tuple(tensor.shape)} in the run, {tuple(mine.shape)} in the script"
        if not torch.equal(mine, tensor.cpu()):
            apart = (mine.double() - tensor.cpu().double()).abs().max().item()
            return f"{name} differs first, by up to {apart:.2g}"
    return ""


def equal(a: float, b: float) -> bool:
    """Return whether two losses are the same, NaN included."""
    return a == b or (a != a and b != b)


def at_most_ulp(count: int) -> Callable[[float, float], bool]:
    """Return a comparison of float32 values that may be so many units in the last place apart."""

    def near(a: float, b: float) -> bool:
        unit = float(np.spacing(np.float32(max(abs(a), abs(b)))))
        return abs(a - b) <= count * unit

    return near


def compare_in_float64(upper: Given, lower: Given) -> Verdict:
    """Compare two scripts that ran in double precision, whose kernels round differently."""
    apart = max(
        (abs(a - b) / max(abs(a), 1e-300) for a, b in zip(upper.losses, lower.losses, strict=True)),
        default=0.0,
    )
    return Verdict(
        apart <= MOST_APART,
        f"in float64, {len(upper.losses)} losses are within {apart:.1e} of those of level data "
        f"(at most {MOST_APART:g} is promised)",
    )

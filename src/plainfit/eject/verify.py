"""What a training gave, what its script gives when it runs alone, and the comparison of the two."""

import copy
import hashlib
import inspect
import json
import math
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load, load_file
from torch import Tensor, nn

from plainfit.common import devices
from plainfit.common.devices import ISA_VARIABLES, PRECISIONS
from plainfit.common.errors import EjectError, RunError, command, plural, raised_as
from plainfit.eject import alone
from plainfit.models.weights import weights_to_bytes
from plainfit.runs import folder as runs
from plainfit.training.checkpoints import newest

MOST_ULP = 2  # of a loss at level tensors: its mean is in the order of the CPU's kernel
MOST_APART = 1e-12  # relative, in float64, at level math


@dataclass
class Outcome:
    """The losses and weights of a training or of a script, to compare bit by bit."""

    losses: list[float]
    weights: dict[str, Tensor]
    sha256: str = ""  # of the weights as a safetensors file; empty where there is none
    fingerprint: dict[str, Any] = field(default_factory=dict)  # of the process that a script ran in


class Verdict(NamedTuple):
    holds: bool
    text: str


def outcome_of(folder: Path, record: dict[str, Any]) -> Outcome:
    """Return what a run gave: at its end, or at its newest checkpoint if it did not get there."""
    path = folder / runs.WEIGHTS
    losses = [step.loss for step in runs.open_run(folder).steps]
    if path.exists() and record.get("steps", len(losses)) == len(losses):
        with raised_as(RunError, f"{path} must hold weights"):
            content = path.read_bytes()
            return Outcome(losses, load(content), hashlib.sha256(content).hexdigest())
    found = newest(folder / runs.CHECKPOINTS, lambda text: None)
    if found is None:
        raise RunError(
            f"a script repeats a training, and {folder} has neither weights nor a checkpoint; "
            f"continue it: {command('resume', folder)}"
        )
    with raised_as(RunError, f"{found[0]} must be of this training"):
        state = found[1]
        weights = {name: v for name, v in state["model"].items() if isinstance(v, Tensor)}
        for name, part in state["callbacks"]:
            if name == "Averaging" and int(part.get("n_averaged", 0)):
                start = "module."
                weights = {k.removeprefix(start): v for k, v in part.items() if k.startswith(start)}
        return Outcome(state["history"]["step_losses"].tolist(), weights)


def as_of(model: nn.Module, outcome: Outcome, target: str) -> Outcome:
    """Return an outcome with the tensors that a weights file has, such as tied weights once."""
    own = {name: tensor.shape for name, tensor in model.state_dict().items()}
    wrong = [name for name, tensor in outcome.weights.items() if own.get(name) != tensor.shape]
    if outcome.sha256:
        if wrong:
            raise EjectError(
                f"{target} must build the model that was trained, and {wrong[0]} has another shape "
                "in it or is gone: restore its source"
            )
        return outcome
    same = copy.deepcopy(model)
    same.load_state_dict({name: outcome.weights[name] for name in own})
    return Outcome(outcome.losses, saved(same)[0])


def saved(model: nn.Module) -> tuple[dict[str, Tensor], str]:
    """Return the tensors of a model's weights file, and the SHA-256 of the file."""
    content = weights_to_bytes(model)
    return load(content), hashlib.sha256(content).hexdigest()


def run_alone(
    script: Path, fingerprint: dict[str, Any], steps: int | None = None, processes: int = 1
) -> Outcome:
    """Run a script in a fresh process or several, where plainfit cannot be imported."""
    others = ("RANK", "WORLD_SIZE")  # of a training on several processes that this one is part of
    environment = {k: v for k, v in os.environ.items() if k not in (*ISA_VARIABLES, *others)}
    recorded = fingerprint["isa_variables"]  # which may name any variable
    environment |= {name: recorded[name] for name in ISA_VARIABLES if name in recorded}
    with tempfile.TemporaryDirectory(prefix="plainfit-eject-") as folder:
        report, weights = Path(folder) / "report.json", Path(folder) / "model.safetensors"
        Path(folder, "run.py").write_text(program(), encoding="utf-8")
        arguments = ["run.py", str(script.resolve()), str(report), str(steps or 0)]
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        done = subprocess.run(
            [sys.executable, *launcher[: 4 * (processes > 1)], *arguments],
            capture_output=True, text=True, cwd=folder, env=environment, check=False,
        )  # fmt: skip
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["no message"]
            errors = [line for line in lines if "Error" in line] if processes > 1 else []
            raise EjectError(f"{script} must run by itself, and failed: {[*errors, lines[-1]][0]}")
        found = json.loads(report.read_text("utf-8"))
        tensors = load_file(weights) if weights.exists() else {}
    return Outcome(found["losses"], tensors, fingerprint=found["fingerprint"])


def program() -> str:
    """Return the program that runs a script: `alone`, and the function it takes from `devices`."""
    facts = inspect.getsource(devices.fingerprint)
    own = Path(alone.__file__).read_text(encoding="utf-8")
    imports = "import os\nfrom operator import attrgetter\nfrom typing import Any\n\nimport torch"
    names = f"ISA_VARIABLES = {ISA_VARIABLES!r}\nPRECISIONS = {PRECISIONS!r}"
    return f"{imports}\n\n{names}\n\n\n{facts}\n\n{own}"


def compare(
    script: Outcome, run: Outcome, level: str, steps: int | None, per_epoch: int | None
) -> Verdict:
    losses = run.losses[:steps]
    if len(script.losses) != len(losses):
        return Verdict(
            False,
            f"the run took {plural(len(losses), 'step')}, and the script {len(script.losses)}",
        )
    most = MOST_ULP if level == "tensors" else 0
    for step, (ours, theirs) in enumerate(zip(script.losses, losses, strict=True)):
        if not near(ours, theirs, most):
            where = f" (epoch {step // per_epoch})" if per_epoch else ""
            return Verdict(
                False,
                f"the loss of step {step}{where} differs first: {theirs!r} in the run, {ours!r} in "
                "the script",
            )
    same = "equal" if all(map(near, script.losses, losses)) else f"equal within {MOST_ULP} ulp"
    if steps is not None:
        return Verdict(True, f"the losses of the first {plural(steps, 'step')} are {same}")
    if differing := first_difference(script.weights, run.weights):
        return Verdict(False, f"all losses are {same}, and the weights are not: {differing}")
    return Verdict(
        True,
        f"{plural(len(losses), 'loss is', 'losses are')} {same} and "
        f"{plural(len(run.weights), 'tensor is', 'tensors are')} equal, bit for bit",
    )


def first_difference(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> str:
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


def near(a: float, b: float, ulp: int = 0) -> bool:
    """Return whether two losses are at most some units in the last place of float32 apart."""
    if a == b or (math.isnan(a) and math.isnan(b)):
        return True
    return ulp > 0 and abs(a - b) <= ulp * float(np.spacing(np.float32(max(abs(a), abs(b)))))


def compare_in_float64(upper: Outcome, lower: Outcome) -> Verdict:
    pairs = [p for p in zip(upper.losses, lower.losses, strict=True) if not near(*p)]
    apart = max((abs(a - b) / max(abs(a), 1e-300) for a, b in pairs), default=0.0)
    return Verdict(
        apart <= MOST_APART,
        f"in float64, {plural(len(upper.losses), 'loss is', 'losses are')} within {apart:.1e} of "
        f"those of level data (at most {MOST_APART:g} is promised)",
    )

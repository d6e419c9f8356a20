"""What a training gave: the loss of every step, and the weights that it ended with."""

import copy
import csv
import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from plainfit.common.errors import EjectError, RunError
from plainfit.models.weights import save_weights
from plainfit.runs import folder as runs
from plainfit.training.checkpoints import newest


@dataclass
class Outcome:
    """Losses and weights, to compare bit by bit."""

    losses: list[float]
    weights: dict[str, Tensor]
    sha256: str
    """Of the weights as a safetensors file; empty where there is none."""


def outcome_of(folder: Path, record: dict[str, Any]) -> Outcome:
    """Return what a run gave: when it was over, or else up to its newest checkpoint.

    Raises:
        RunError: if it has neither weights nor a checkpoint.
    """
    from safetensors.torch import load_file

    path, losses = folder / runs.WEIGHTS, read_losses(folder)
    if path.exists() and record.get("steps", len(losses)) == len(losses):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        return Outcome(losses, load_file(path), digest)
    found = newest(folder / runs.CHECKPOINTS, lambda text: None)
    if found is None:
        raise RunError(
            f"a script is made of a training that happened, and {folder} has neither weights nor a "
            f"checkpoint; go on with it: plainfit resume {folder}"
        )
    state = found[1]
    weights = averaged(state) or {
        name: value for name, value in state["model"].items() if isinstance(value, Tensor)
    }
    return Outcome(state["history"]["step_losses"].tolist(), weights, "")


def as_of(model: nn.Module, outcome: Outcome, target: str) -> Outcome:
    """Return an outcome as the model's file has it: tied weights once, no hidden buffers.

    Raises:
        EjectError: if the weights are not those of such a model.
    """
    from safetensors.torch import load_file

    own = {name: tensor.shape for name, tensor in model.state_dict().items()}
    wrong = [name for name, tensor in outcome.weights.items() if own.get(name) != tensor.shape]
    if outcome.sha256:
        if wrong:
            raise EjectError(
                f"{target} must build the model that was trained, and {wrong[0]} has another shape "
                "in it or is gone: put its source back"
            )
        return outcome
    same = copy.deepcopy(model)
    same.load_state_dict({name: outcome.weights[name] for name in own})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / runs.WEIGHTS
        save_weights(path, same)
        return Outcome(outcome.losses, load_file(path), "")


def averaged(state: dict[str, Any]) -> dict[str, Tensor]:
    """Return the averaged weights in a checkpoint, if there are any."""
    for name, part in state["callbacks"]:
        if name == "Averaging" and int(part.get("n_averaged", 0)):
            prefix = "module."
            return {k.removeprefix(prefix): v for k, v in part.items() if k.startswith(prefix)}
    return {}


def read_losses(folder: Path) -> list[float]:
    """Return the loss of every step."""
    try:
        with (folder / runs.STEPS).open(newline="", encoding="utf-8") as file:
            return [float(row["loss"]) for row in csv.DictReader(file)]
    except (OSError, KeyError, ValueError, TypeError):
        return []


def weights_hash(model: nn.Module) -> str:
    """Return the SHA-256 of a model's weights as a safetensors file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / runs.WEIGHTS
        save_weights(path, model)
        return hashlib.sha256(path.read_bytes()).hexdigest()

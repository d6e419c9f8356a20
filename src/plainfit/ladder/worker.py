"""A process that runs rungs for a page: `python -m plainfit.ladder.worker FOLDER`.

A request is a line of JSON, answered by lines of JSON of which `{"done": true}` is the last. Rungs
change what a process has one of (its output, `Tensor.backward`), and can be stopped only with it.
"""

import base64
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from plainfit.common.errors import PlainfitError
from plainfit.data.open_data import open_data
from plainfit.ladder.catalog import Rung, find_rung, select
from plainfit.ladder.climb import climb, usual_epochs, write_data
from plainfit.ladder.inside import look_inside
from plainfit.ladder.runner import Parameters, Setting

FOLDER = Path(sys.argv[-1])
PROCESS = os.getpid()


def main() -> None:
    commands: dict[str, Callable[..., Iterator[dict[str, Any]]]] = {"run": run, "step": step}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            for answer in commands[request.pop("do")](**request):
                say(answer)
        except PlainfitError as error:
            say({"error": str(error)})
        say({"done": True})


def say(answer: Mapping[str, Any]) -> None:
    if os.getpid() == PROCESS:  # rung 15 forks; its second process is watched by no one
        REAL.write(json.dumps(answer) + "\n")
        REAL.flush()


def run(rungs: str, data: str) -> Iterator[dict[str, Any]]:
    """Run rungs as `plainfit ladder` does; say each loss, what is printed, and the comparisons."""
    setting, samples, _ = opened(data)

    def on_step(rung: Rung, names: Mapping[str, Any], loss: Tensor) -> None:
        say({"rung": rung.label, "loss": number(loss.item())})

    def on_print(rung: Rung, text: str) -> None:
        say({"rung": rung.label, "text": text})

    yield {"epochs": setting.epochs, "samples": samples}
    watched = Setting(setting.data, setting.epochs, on_step=on_step, on_print=on_print)
    for result in climb(select(rungs), watched):
        yield {"comparison": result.to_dict()}


def step(rung: str, step: int, data: str) -> Iterator[dict[str, Any]]:
    setting, samples, classes = opened(data)
    found = look_inside(find_rung(rung), setting, step, samples)
    yield {
        "step": found.step,
        "last": found.last,
        "classes": classes,
        "xb": array(found.xb),
        "yb": found.yb.tolist(),
        "pred": array(found.pred),
        "loss": number(found.loss),
        "lossAfter": number(found.loss_after),
        **{name: arrays(getattr(found, name)) for name in ("parameters", "gradients", "updated")},
    }


@cache
def opened(name: str) -> tuple[Setting, int, tuple[str, ...]]:
    data = open_data(name)
    path = FOLDER / f"{name}.npz"
    if not path.exists():
        write_data(data, path)
    samples = data.counts()["train"]
    return Setting(path, usual_epochs(samples)), samples, data.classes


def arrays(tensors: Parameters) -> dict[str, Any]:
    return {name: array(tensor) for name, tensor in tensors.items()}


def array(tensor: Tensor) -> dict[str, Any]:
    values = tensor.detach().to("cpu", torch.float32).contiguous()
    return {
        "shape": list(tensor.shape),
        "values": base64.b64encode(values.numpy().tobytes()).decode(),
    }


def number(value: float) -> float | None:
    return value if value == value else None


if __name__ == "__main__":
    REAL = sys.stdout  # a rung's own output goes elsewhere
    main()

"""What `run.json` holds, the type of every field that a command reads, and a line of the logs."""

import json
import math
from typing import Annotated, Any, Literal, NamedTuple, NotRequired, TypedDict

from plainfit.common.schema import Between, hints_of, misfit
from plainfit.runs.settings import PATHS, RunConfig

Size = Annotated[int, Between(1, 10**9)]
Count = Annotated[int, Between(0, 2**63 - 1)]
Values = dict[str, float]
Row = dict[str, Any]
DAMAGED = (
    ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError,
)  # fmt: skip  # what parsing a damaged line raises


class Model(TypedDict):
    """The fields of `plainfit.models.build.Factory`."""

    target: str
    arguments: dict[str, Any]
    seed: int
    loaded: NotRequired[bool]


class Scaling(TypedDict):
    mean: float
    std: float


class Data(TypedDict):
    name: str
    counts: dict[str, Count]
    task: NotRequired[Literal["classification", "regression", "multi-label", "segmentation"]]
    classes: list[str]
    targets: NotRequired[dict[str, Scaling]]
    input_shape: list[Size]
    features: list[str]
    notes: NotRequired[list[str]]
    preprocessing: NotRequired[dict[str, Any]]
    fingerprint: str


class Code(TypedDict):
    """The source of the model, as `plainfit.models.trust.remember` gives it."""

    sha256: str
    files: dict[str, str]


class Optimizer(TypedDict):
    name: str
    options: dict[str, Any]


class Layers(TypedDict):
    layers: list[str]
    lr: float
    parameters: Count


class Length(TypedDict):
    from_step: NotRequired[Count]
    from_epoch: NotRequired[Count]  # of an older run
    epochs: Size


class Fingerprint(TypedDict):
    device: str
    device_name: NotRequired[str]
    isa_variables: dict[str, str]
    threads: Size
    world_size: Size


class Record(TypedDict):
    state: Literal["started", "finished", "interrupted", "pruned", "failed"]
    config: dict[str, Any]
    model: Model
    code: NotRequired[Code]
    data: Data
    parameters: NotRequired[Count]
    optimizer: NotRequired[Optimizer]
    layers: NotRequired[list[Layers]]
    loss: NotRequired[str]
    versions: NotRequired[dict[str, str]]
    fingerprint: Fingerprint
    stopped: NotRequired[str]
    test: NotRequired[Values | None]
    last: NotRequired[Values | None]
    best: NotRequired[Values | None]
    steps: NotRequired[Count]
    lengths: NotRequired[list[Length]]
    first_epochs: NotRequired[Size]
    resumed: NotRequired[list[Count]]  # the steps from which it was


def problem_of(record: Any) -> str:
    """Return the first field of another type, what it must be, and what it is; empty if none is.

    Settings that this version does not know are left alone: a report shows them all the same.
    """
    if wrong := misfit(record, Record, ""):
        return wrong
    if unknown := record["model"].keys() - Model.__annotations__.keys():
        return f"model must have no {min(unknown)!r}"
    known = hints_of(RunConfig) | dict.fromkeys(PATHS, str | None) | {"compile": str | bool | None}
    settings = record["config"].items()
    found = (misfit(value, known.get(name, Any), f"config.{name}") for name, value in settings)
    return next(filter(None, found), "")


class Step(NamedTuple):
    step: int
    epoch: int
    loss: float
    lr: float


def parse_step(line: str) -> Step:
    step, epoch, loss, lr = line.split(",")
    return Step(int(step), int(epoch), float(loss), float(lr))


def parse_epoch(line: str) -> Row:
    row = {name: float(value) for name, value in json.loads(line).items()}
    counted = (row["epoch"], row["seconds"], row["samples_per_second"])
    if not all(0 <= number < math.inf for number in counted) or "train_loss" not in row:
        raise ValueError
    return row | {"epoch": int(row["epoch"])}

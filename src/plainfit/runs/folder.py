"""The run folder: what a training leaves behind, each file written whole or not at all."""

import errno
import json
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from pathlib import Path
from statistics import harmonic_mean
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from plainfit.common import files
from plainfit.common.errors import (
    ConfigError,
    DataError,
    PlainfitError,
    RunError,
    command,
    near_miss,
    reason,
)
from plainfit.common.files import ANY_LOCK, JOURNAL, LOCK
from plainfit.common.files import RECORD as RECORD
from plainfit.data.open_data import kind_of, without
from plainfit.data.splits import DataSplits, values_text, vocabulary_of
from plainfit.data.targets import Target
from plainfit.models.build import Factory
from plainfit.models.trust import Code, code_of, trusted
from plainfit.models.weights import load_model
from plainfit.runs.record import DAMAGED, Row, Step, parse_epoch, parse_step, problem_of
from plainfit.runs.settings import RunConfig
from plainfit.training import checkpoints
from plainfit.training.history import History, best_epoch
from plainfit.training.hooks import warn

CHECKPOINTS, TRACKED = "checkpoints", "tracked"
WEIGHTS, BEST = "model.safetensors", "best.safetensors"
FIRST = "first.safetensors"  # the weights that a fine-tuning started from
METRICS, STEPS, CURVES = "metrics.jsonl", "steps.csv", "curves.png"
OWN = {RECORD, JOURNAL, WEIGHTS, BEST, FIRST, METRICS, STEPS, CURVES}

T = TypeVar("T")


def default_folder(data: str, model: str) -> Path:
    """Create `runs/TIME-DATA-MODEL`, with a number appended if that exists."""
    base = Path("runs") / default_name(data, model)
    for number in count(1):
        folder = base if number == 1 else base.with_name(f"{base.name}-{number}")
        with suppress(FileExistsError):
            create_folder(folder, is_new=True)
            break
    return folder


def default_name(data: str, model: str) -> str:
    data = Path(data).name.split(".")[0] or "data"
    model = Path(model.split(":")[-1]).name
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{data}-{model}"


def create_folder(folder: Path, *, is_new: bool = False) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=not is_new)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        if is_new and isinstance(error, FileExistsError):
            raise
        raise RunError(
            f"the folder {folder} must be writable ({error.strerror}); choose another"
        ) from error


def check_new(folder: Path) -> None:
    """Refuse a folder that holds anything but what a killed process left before its record."""
    others = [path for path in folder.iterdir() if path.name not in (FIRST, LOCK)]
    if not all(map(files.is_temporary, others)):
        resume = f"{command('resume', folder)}, or " if (folder / RECORD).exists() else ""
        raise RunError(
            f"the run folder must be new or empty, and {folder} is not; {resume}choose another"
        )
    files.remove_temporary(folder)


def check_own(folder: Path) -> None:
    """Refuse a run, perhaps of someone else, whose checkpoints are another's: they are pruned."""
    checkpoints = folder / CHECKPOINTS
    if checkpoints.is_symlink():
        raise RunError(
            f"{checkpoints} must be a folder, and is a link to {checkpoints.readlink()}; put the "
            "checkpoints there instead"
        )


def write_whole(path: Path, data: bytes, check: Callable[[Path], object] | None = None) -> None:
    with files.writing(path):
        files.write_whole(path, data, check=check)


def write_output(path: Path, data: bytes, check: Callable[[Path], object] | None = None) -> None:
    """Write a file whose path the user chose."""
    check_output(path)
    write_whole(path, data, check)


def check_output(path: Path) -> None:
    """Refuse to write over what a run or a study owns: its files, its folders, every lock."""
    folder, name = path.parent.resolve(), path.name.lower()
    is_own = name in OWN and any((folder / file).exists() for file in (RECORD, JOURNAL))
    is_within = any(
        place.name in (CHECKPOINTS, TRACKED) and (place.parent / RECORD).exists()
        for place in (folder, *folder.parents)
    )
    if is_own or is_within or checkpoints.NAME.fullmatch(name) or ANY_LOCK.fullmatch(name):
        raise ConfigError(f"{path} must not be a run's own file or a study's; choose another name")


def check_free(path: Path, force: bool) -> None:
    if path.exists() and not force:
        raise ConfigError(f"must be set to overwrite {path}, which exists", field="force")


def check_new_file(path: Path, force: bool) -> None:
    check_output(path)
    if path.is_dir():
        raise ConfigError(f"{path} must be a file, and is a folder; add a name to it")
    if not path.parent.is_dir():
        raise ConfigError(f"the folder {path.parent} must exist; create it first")
    check_free(path, force)


def write_record(folder: Path, record: dict[str, Any]) -> None:
    write_whole(folder / RECORD, (json.dumps(record, indent=2) + "\n").encode())


def read_record(folder: Path) -> dict[str, Any]:
    path = folder / RECORD
    try:
        if not path.is_file():  # a named pipe, say, would never end
            runs = [path.parent.name for path in folder.absolute().parent.glob(f"*/{RECORD}")]
            like = near_miss(folder.name, runs)
            raise RunError(f"{folder} must be a run folder with a {RECORD}, and has none{like}")
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(
            f"{folder} must be a run folder with a {RECORD}, and has a damaged one"
        ) from error
    if wrong := problem_of(record):
        raise RunError(f"{path} is damaged: {wrong}; restore it from a copy")
    return dict(record)


def update_record(folder: Path, **changes: Any) -> None:
    write_record(folder, read_record(folder) | changes)


@dataclass(repr=False)
class Run:
    """A run folder in any state, with the content of `run.json` as `record`.

    Each part is read when it is first used. Lines of the logs that a crash cut off are left out,
    and counted in `notes`.
    """

    folder: Path
    record: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    trust_code: bool = False
    """Whether the source of its model is trusted, whoever wrote it."""
    weights: str = WEIGHTS
    """The file that `model` is read from."""

    def __repr__(self) -> str:
        return f"<Run {self.folder}: {self.settings['model']}, {self.record['state']}>"

    @property
    def classes(self) -> list[str]:
        """The name of each class or label, in the order of the model's outputs."""
        return list(self.record["data"]["classes"])

    @cached_property
    def target(self) -> Target:
        """What the outputs of its model stand for."""
        return Target.from_dict(self.record["data"])

    @cached_property
    def config(self) -> RunConfig:
        """The settings; a run of an older plainfit has the defaults of newer settings."""
        kinds: dict[str, Any] = {}
        if "missing" not in self.record["config"]:  # what is refused in a table by now was not
            for name, learned in self.columns.items():
                kind = "categorical" if "categories" in learned else "numeric"
                kinds[kind] = f"{kinds[kind]},{name}" if kind in kinds else name
        recorded, unused = self.record["config"], list[str]()
        with suppress(PlainfitError, OSError):  # its data may be gone
            unused = without(kind_of(self.settings["data"]))  # of an older plainfit that took them
        try:
            kept = {name: value for name, value in recorded.items() if name not in unused}
            return RunConfig.from_dict(kept, **kinds)
        except ConfigError as error:
            raise RunError(f"{self.folder / RECORD}: {error}") from error

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The settings as they were recorded, even those that this version does not know."""
        return {**RunConfig().to_dict(), **self.record["config"]}

    @cached_property
    def preprocessing(self) -> dict[str, Any]:
        """How its samples were made; for a run that does not say so, as its data is read now."""
        recorded: dict[str, Any] | None = self.record["data"].get("preprocessing")
        if recorded is not None:
            return recorded
        with suppress(PlainfitError):
            return self.open_data().preprocessing
        return {"values": "that are not recorded, of data that cannot be opened"}

    def samples(self, count: int) -> Tensor:
        dtype = torch.float32 if self.vocabulary is None else torch.int64
        return torch.zeros(count, *self.record["data"]["input_shape"], dtype=dtype)

    @property
    def vocabulary(self) -> int | None:
        """How many numbers a word of text can have; None for other data."""
        return vocabulary_of(self.columns)

    @property
    def columns(self) -> dict[str, Any]:
        """How each column of its table became inputs; empty for other data."""
        made: dict[str, Any] = self.record["data"].get("preprocessing") or {}
        return dict(made.get("columns", {}))

    def check_values(
        self, taken: Sequence[str], what: str, remedy: str, features: Sequence[str] = ()
    ) -> None:
        """Refuse to give its model values that were made in another way than in its training."""
        own = self.record["data"]["features"]
        made = values_text(self.preprocessing, own)
        if made not in taken or list(features) != own:
            raise RunError(f"{what}, and {self.folder} was trained on values {made}; {remedy}")

    @cached_property
    def factory(self) -> Factory:
        """How the model was built. Its source is imported here, if it is trusted.

        Raises:
            TrustError: if it is not.
            ModelError: if it cannot be imported, or is not known to return a module.
        """
        factory = Factory(**self.record["model"])
        code = code_of(factory.target)
        trusted(factory.target, code, trust_code=self.trust_code)
        self._tell_changes(factory.target, code)
        return factory

    def _tell_changes(self, target: str, now: Code | None) -> None:
        then = self.record.get("code")
        if then and now and then["sha256"] != now.sha256:
            names = then["files"].keys() | now.hashes.keys()
            changed = [n for n in sorted(names) if then["files"].get(n) != now.hashes.get(n)]
            note = (
                f"the source of {target} has changed since this run was trained "
                f"({', '.join(changed)}): what follows is computed with the present source"
            )
            self.notes.append(f"{note[0].upper()}{note[1:]}.")
            warn(f"{self.folder}: {note}")

    def lengths(self, steps: int) -> dict[int, int]:
        """Return the number of epochs in all that was planned, by the step from which it was.

        `steps` is the number of steps in an epoch.
        """
        first = {0: self.record.get("first_epochs", self.settings["epochs"])}
        later = self.record.get("lengths", [])
        return first | {
            plan.get("from_step", plan.get("from_epoch", 0) * steps): plan["epochs"]
            for plan in later
        }

    @cached_property
    def epochs(self) -> list[Row]:
        rows = self._lines(METRICS, parse_epoch)
        alike = [row for row in rows if row.keys() == rows[0].keys()]
        if others := len(rows) - len(alike):
            self.notes.append(
                f"{others} of the rows of {METRICS} have other columns than the first: left out."
            )
        return alike

    @property
    def history(self) -> History:
        """What `fit` returned: losses and metrics by epoch, and the loss of every step."""
        history = History()
        history.epochs, history.step_losses = self.epochs, [step.loss for step in self.steps]
        history.stopped = self.record.get("stopped", "")
        return history

    @property
    def best(self) -> Row | None:
        """The row of the best epoch, by the validation loss or `monitor`; None before the first."""
        try:
            best = best_epoch(self.epochs, self.settings["monitor"])
        except ConfigError as error:
            raise RunError(f"{self.folder / RECORD}: {error}") from error
        return None if best is None else self.epochs[best]

    @property
    def last(self) -> Row | None:
        return self.epochs[-1] if self.epochs else None

    @property
    def metrics(self) -> list[str]:
        from plainfit.common.plots import NOT_METRICS

        return [name for name in self.last or () if name not in NOT_METRICS]

    @property
    def seconds(self) -> float:
        """The time of all epochs, validation included."""
        return float(sum(row["seconds"] for row in self.epochs))

    @property
    def speed(self) -> float | None:
        """Samples a second over all epochs."""
        rates = [row["samples_per_second"] for row in self.epochs]
        return harmonic_mean(rates) if rates else None

    @cached_property
    def steps(self) -> list[Step]:
        return self._lines(STEPS, parse_step, header=True)

    @cached_property
    def model(self) -> nn.Module:
        """The trained model, on the CPU, in `eval()` mode."""
        from safetensors import SafetensorError

        path, resume = self.folder / self.weights, command("resume", self.folder)
        when, otherwise = "when the run finishes", f"remove it, and {resume} writes it anew"
        if self.weights == BEST:
            when, otherwise = "after the best epoch so far", "best=False loads the last weights"
        if not path.is_file():
            raise RunError(
                f"{self.folder} must hold {self.weights}, which is written {when}, and its state "
                f"is {self.record['state']}: {resume if self.weights == WEIGHTS else otherwise}"
            )
        model = self.factory.build_quietly()
        try:
            load_model(model, path)
        except (SafetensorError, RuntimeError, ValueError, OSError) as error:
            raise RunError(
                f"{path} must hold the weights of {self.factory.target}: {reason(error)}; if it "
                f"is damaged, {otherwise}"
            ) from error
        return model.eval()

    @cached_property
    def built_model(self) -> nn.Module:
        """The trained model, or an untrained one if the run has no weights yet."""
        if (self.folder / WEIGHTS).is_file():
            return self.model
        return self.factory.build_quietly().eval()

    @property
    def parameters(self) -> int | None:
        """The number of parameters; None in a run of a plainfit that did not record it."""
        return self.record.get("parameters")

    def open_data(self) -> DataSplits:
        """Open the data that the run was trained on, which must not have changed since."""
        made = [made["tokenizer"] for made in self.columns.values() if "tokenizer" in made]
        data = self.config.open_data(*made)
        own = self.record["data"]
        now, then = [*data.classes], own.get("classes", [])
        if now != then and {*now} == {*map(str.strip, then)}:
            raise DataError(
                f"the classes of {self.config.data} are in another order or have fewer blanks than "
                f"in {self.folder}, of an older plainfit; train a new run, or use the version in "
                "run.json"
            )
        if data.fingerprint != own["fingerprint"]:
            raise DataError(
                f"the data must be what {self.folder} was trained on, and {self.config.data} has "
                "changed since; restore it, or train a new run"
            )
        return data

    def _lines(self, name: str, parse: Callable[[str], T], *, header: bool = False) -> list[T]:
        path = self.folder / name
        try:
            text = path.read_text("utf-8", "replace") if path.is_file() else ""
        except OSError:
            return []
        good, lines = [], text.splitlines()[header:]
        for line in lines:
            with suppress(*DAMAGED):
                good.append(parse(line))
        if bad := len(lines) - len(good):
            self.notes.append(
                f"{bad} of the {len(lines)} lines of {name} cannot be read: left out."
            )
        return good


def open_run(folder: Path, *, trust_code: bool = False) -> Run:
    """Open a run folder in any state.

    Args:
        folder: written by `train`; it may come from someone else, as nothing in it is executed.
        trust_code: import the source of its model, whatever it is, and trust it from now on. By
            default it is imported only if it has trained on this machine as it is.

    Raises:
        RunError: if it is not a run folder, or its record is damaged.
    """
    return Run(folder, read_record(folder), trust_code=trust_code)


def load_run(folder: str | Path, *, best: bool = True, trust_code: bool = False) -> Run:
    """Open a run folder and load its trained model.

    Args:
        folder: written by `plainfit train`; it may come from someone else, as for `open_run`.
        best: load the weights of the best epoch, by the validation loss or `monitor`, which a run
            has before it finishes, too; else those at the end of the training.
        trust_code: as for `open_run`.

    Returns:
        The run: `run.model` is the model, on the CPU and in `eval()` mode, `run.classes` the name
        of each of its outputs, `run.preprocessing` how its inputs were made, `run.history` what
        `fit` returned. `predict` and `evaluate` take it as it is.

    Raises:
        RunError: if it is no run folder, or has no such weights.
        TrustError: if the source of its model is not trusted.
        ModelError: if the model can no longer be built.
    """
    run = open_run(Path(folder), trust_code=trust_code)
    run.weights = BEST if best else WEIGHTS
    run.model  # noqa: B018  # loads it
    return run


@dataclass(frozen=True)
class RunLine:
    """A run as `plainfit runs` lists it, with the epochs done, `of` those asked for."""

    name: str
    state: str
    epochs: int
    of: int
    best: Row  # of the best epoch; empty before the first one
    metric: str  # the first one; empty before the first epoch
    bytes: int


def list_runs(parent: Path) -> list[RunLine]:
    if not parent.is_dir():
        raise RunError(f"the folder of runs must exist, and {parent} does not")
    lines = []
    for folder in sorted(path.parent for path in parent.glob(f"*/{RECORD}")):
        try:
            run = open_run(folder)
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        except (PlainfitError, OSError):  # a file may vanish meanwhile
            lines.append(RunLine(folder.name, "damaged", 0, 0, {}, "", 0))
            continue
        done, of = len(run.epochs), run.settings["epochs"]
        state, metric, best = run.record["state"], next(iter(run.metrics), ""), run.best or {}
        lines.append(RunLine(folder.name, state, done, of, best, metric, size))
    return lines

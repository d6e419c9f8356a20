"""The settings of a run: one typed field each, which becomes an option of `plainfit train`."""

import ast
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Self

from plainfit.common.errors import ConfigError, unknown_name

# Checked before torch loads; `training` has what they stand for.
SCHEDULES = ("constant", "linear", "cosine", "warmup-cosine", "one-cycle", "polynomial")
TRACKERS = ("tensorboard", "mlflow", "wandb", "trackio")
PRECISIONS = ("fp32", "bf16", "fp16")

# The fields that say how data is read: the keyword arguments of `open_data`.
DATA_FIELDS = ("data_dir", "target", "image_size", "skip_bad", "memory_budget", "split_seed")

# The fields that only a fine-tuning has: no options of `plainfit train` and `plainfit tune`.
FINE_TUNING_FIELDS = ("source", "freeze_epochs", "gradual", "lr_ratio")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that a run depends on besides the machine.

    Raises:
        ConfigError: if a value is out of range. Names are checked where they are looked up.
    """

    data: Annotated[
        str,
        "digits, mnist, fashion-mnist, or a path: a folder of images or of .npy files, .npz, .csv, "
        ".parquet, .arrow, .feather, .pkl.gz.",
    ] = "digits"
    data_dir: Annotated[
        Path | None, "Folder with the files of mnist or fashion-mnist; they are checked by hash."
    ] = None
    target: Annotated[str | None, "The column to predict, for a table."] = None
    image_size: Annotated[
        int | None, "Resize the images of a folder to this many pixels a side."
    ] = None
    skip_bad: Annotated[bool, "Leave out unreadable images and count them."] = False
    memory_budget: Annotated[
        int, "MiB of data to hold in memory, and on the accelerator; more stays on disk."
    ] = 2048
    split_seed: Annotated[int, "Seed of the split, for data that comes without one."] = 0
    model: Annotated[
        str,
        "logistic, mlp, cnn, compact, resnet, resnet18 (34, 50), or MODULE:CALLABLE, such as "
        "nets:Small for nets.py.",
    ] = "resnet"
    model_args: Annotated[
        str | None, "Arguments for the model, as in a call: width=32, blocks=(2, 2)."
    ] = None
    epochs: Annotated[int, "Passes over the training data."] = 10
    lr: Annotated[
        float | str | None,
        "Learning rate (default: 0.1 for sgd, 0.001 for others); auto: try some.",
    ] = None
    momentum: Annotated[float | None, "Momentum of sgd (default: 0.9) or rmsprop (default: 0)."] = (
        None
    )
    schedule: Annotated[
        str | None,
        "Learning rate by step: constant, linear, cosine, warmup-cosine, one-cycle, polynomial.",
    ] = None
    batch_size: Annotated[int, "Samples in a training batch."] = 64
    accumulate: Annotated[int, "Take a step every so many batches, on their mean gradient."] = 1
    clip: Annotated[float | None, "Scale gradients down to this norm."] = None
    average: Annotated[
        float | None, "Validate and keep a moving average of the weights: its decay, such as 0.999."
    ] = None
    patience: Annotated[
        int | None, "Stop when the validation loss has not improved for so many epochs."
    ] = None
    time_limit: Annotated[float | None, "Stop after so many seconds; resume goes on."] = None
    checkpoint_every: Annotated[
        int | None, "Write a checkpoint every so many steps too (always: each epoch, each minute)."
    ] = None
    track: Annotated[str | None, "Send figures to tensorboard, mlflow, wandb or trackio."] = None
    detect_anomaly: Annotated[
        bool, "Name the operation whose gradient is NaN; slow, to find a fault."
    ] = False
    overfit_one_batch: Annotated[
        bool, "Train on the first batch alone: a check that the model can learn."
    ] = False
    optimizer: Annotated[str, "sgd, adam, adamw or rmsprop."] = "sgd"
    weight_decay: Annotated[
        float | None, "Decay of the weights, and not of biases and norms (default: torch's own)."
    ] = None
    nesterov: Annotated[bool, "Momentum that looks ahead, for sgd."] = False
    label_smoothing: Annotated[
        float, "Train towards labels that are wrong with this probability: 0 to below 1."
    ] = 0.0
    augment: Annotated[
        str,
        "Vary the training images: none, light, standard, strong, or names with ranges, such as "
        "rotate=10,horizontal-flip,mixup (docs/augmentation.md).",
    ] = "none"
    fused: Annotated[bool, "Update all parameters in one kernel; other rounding, not rmsprop."] = (
        False
    )
    channels_last: Annotated[
        bool, "Keep images as height, width, channels: often faster; other rounding."
    ] = False
    precision: Annotated[
        str, "fp32, or bf16 or fp16 for matrix products and convolutions in that type."
    ] = "fp32"
    compile: Annotated[
        bool, "Compile the model: seconds at the start, faster steps; other rounding."
    ] = False
    keep_memory: Annotated[bool, "Keep freed memory until the end: fewer page faults."] = True
    threads: Annotated[
        int | None, "Threads of the CPU (default: one for small steps, else all cores)."
    ] = None
    seed: Annotated[int, "Seed of initial values, dropout and the order of samples."] = 0
    device: Annotated[str, "auto (an accelerator if there is one), cpu, cuda, mps, ..."] = "auto"
    source: Annotated[str | None, "Where the body comes from, for a fine-tuning."] = None
    freeze_epochs: Annotated[int, "Train the new head alone for so many of the epochs."] = 1
    gradual: Annotated[bool, "Then thaw one more group of layers in each epoch."] = False
    lr_ratio: Annotated[float, "How many times slower the first layers learn than the head."] = (
        100.0
    )
    out: Annotated[
        Path | None, "Folder for the run, new or empty (default: runs/TIME-DATA-MODEL)."
    ] = None

    def __post_init__(self) -> None:
        at_least = {
            "epochs": 1, "batch_size": 1, "seed": 0, "split_seed": 0, "memory_budget": 0,
            "accumulate": 1, "patience": 1, "checkpoint_every": 1, "threads": 1,
            "freeze_epochs": 0, "lr_ratio": 1,
        }  # fmt: skip
        for name, least in at_least.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{option(name)} must be at least {least}, got {value}")
        _ = self.model_arguments  # raises
        if self.seed >= 2**63:
            raise ConfigError(f"--seed must be below 2**63, got {self.seed}")
        if self.image_size is not None and not 1 <= self.image_size <= 5000:
            raise ConfigError(f"--image-size must be 1 to 5000, got {self.image_size}")
        if self.lr is not None and self.lr != "auto" and not is_positive(self.lr):
            raise ConfigError(f"--lr must be a positive number or auto, got {self.lr}")
        if isinstance(self.lr, str) and self.lr != "auto":  # from the command line
            object.__setattr__(self, "lr", float(self.lr))
        if self.source is not None:
            self.check_fine_tuning()
        if self.weight_decay is not None and not 0 <= self.weight_decay < math.inf:
            raise ConfigError(f"--weight-decay must be at least 0, got {self.weight_decay}")
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(
                f"--label-smoothing must be at least 0 and below 1, got {self.label_smoothing}"
            )
        for name in ("clip", "time_limit"):
            value = getattr(self, name)
            if value is not None and not is_positive(value):
                raise ConfigError(f"{option(name)} must be a positive number, got {value}")
        if self.schedule is not None and self.schedule not in SCHEDULES:
            raise ConfigError(unknown_name("schedule", self.schedule, SCHEDULES))
        if self.track is not None and self.track not in TRACKERS:
            raise ConfigError(unknown_name("tracker", self.track, TRACKERS))
        if self.precision not in PRECISIONS:
            raise ConfigError(unknown_name("precision", self.precision, PRECISIONS))
        if self.average is not None and not 0 <= self.average < 1:
            raise ConfigError(f"--average must be at least 0 and below 1, got {self.average}")
        if self.momentum is not None and not 0 <= self.momentum < 1:
            raise ConfigError(f"--momentum must be at least 0 and below 1, got {self.momentum}")

    def check_fine_tuning(self) -> None:
        """Check what only a fine-tuning has."""
        if self.lr == "auto":
            raise ConfigError("a fine-tuning has a rate for each group of layers: --lr NUMBER")
        if self.freeze_epochs > self.epochs:
            raise ConfigError(
                f"--freeze-epochs must be at most --epochs, {self.epochs}, got {self.freeze_epochs}"
            )
        if not math.isfinite(self.lr_ratio):
            raise ConfigError(f"--lr-ratio must be finite, got {self.lr_ratio}")

    @property
    def rate(self) -> float | None:
        """The learning rate as a number; None for the default, or to be found."""
        return self.lr if isinstance(self.lr, float | int) else None

    @property
    def model_arguments(self) -> dict[str, Any]:
        """The arguments for the model, by name.

        >>> RunConfig(model_args="width=32, blocks=(2, 2)").model_arguments
        {'width': 32, 'blocks': (2, 2)}
        """
        try:
            call = ast.parse(f"model({self.model_args or ''})", mode="eval").body
            assert isinstance(call, ast.Call)
            if call.args or any(keyword.arg is None for keyword in call.keywords):
                raise ValueError
            return {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
        except (SyntaxError, ValueError, AssertionError) as error:
            raise ConfigError(
                "--model-args must be names with values, as in a call, such as "
                f"'width=32, blocks=(2, 2)', got {self.model_args!r}"
            ) from error

    @classmethod
    def from_dict(cls, record: dict[str, Any], **changes: Any) -> Self:
        """Return the settings that `to_dict` gave, with some changed.

        Raises:
            ConfigError: if a setting is not known, such as one of a newer plainfit.
        """
        known = {item.name for item in fields(cls)}
        if unknown := record.keys() - known:
            raise ConfigError(
                f"the settings must be of this version of plainfit, and it does not know "
                f"{', '.join(sorted(unknown))}; use the version in run.json"
            )
        folders = {n: Path(record[n]) for n in ("data_dir", "out") if record.get(n) is not None}
        return cls(**(record | folders | changes))

    def to_dict(self) -> dict[str, Any]:
        """Return the settings for `run.json`: paths as text."""
        return {
            name: str(value) if isinstance(value, Path) else value
            for name, value in asdict(self).items()
        }


def is_positive(number: str | float) -> bool:
    """Return whether a number, or the text of one, is above 0 and finite.

    >>> is_positive("0.1"), is_positive("-1"), is_positive("nan"), is_positive("fast")
    (True, False, False, False)
    """
    try:
        return 0 < float(number) < math.inf
    except ValueError:
        return False


def option(name: str) -> str:
    """Return a field's name as it is written on the command line.

    >>> option("batch_size")
    '--batch-size'
    """
    return "--" + name.replace("_", "-")

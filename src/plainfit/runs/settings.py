"""The settings of a run: one typed field each, which becomes an option of the command line.

Nothing here imports torch, so that a mistake on the command line is found before it loads.
"""

import ast
import json
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

from plainfit.common.errors import ConfigError, DataError, command, raised_as, unknown_name
from plainfit.common.schema import (
    AMOUNT,
    COUNT,
    SEED,
    SHARE,
    UP_TO_AMOUNT,
    UP_TO_COUNT,
    Between,
    check_values,
    hints_of,
    misfit,
)
from plainfit.training.schedules import BY_NAME

if TYPE_CHECKING:
    from plainfit.data.splits import DataSplits

# What these names stand for is in `training`.
TRACKERS = ("tensorboard", "mlflow", "wandb", "trackio")
PRECISIONS = ("fp32", "bf16", "fp16")
FORMS = ("epoch", "step")
PATHS = ("data_dir", "out")  # the settings that are paths
WEIGHT_FILES = (".safetensors", ".pt", ".pth")


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Which data to train on, and how to read it."""

    data: Annotated[
        str,
        "digits, mnist, fashion-mnist, or a path: a folder of images (and masks) or of .npy files, "
        ".npz, .csv, .tsv, .jsonl, .parquet, .arrow, .feather, .pkl.gz.",
    ] = "digits"
    data_dir: Annotated[
        Path | None, "Folder with the files of mnist or fashion-mnist; they are checked by hash."
    ] = None
    target: Annotated[
        str | None, "The column to predict, for a table or labels.csv; several: rain,wind."
    ] = None
    task: Annotated[
        str | None, "classification, regression or multi-label (default: by the target)."
    ] = None
    image_size: Annotated[
        int | None, "Resize the images of a folder to N x N pixels.", Between(1, 5000)
    ] = None
    skip_bad: Annotated[bool, "Skip unreadable images and count them."] = False
    memory_budget: Annotated[
        int,
        "MiB of data to hold in memory, and on the accelerator; more stays on disk.",
        UP_TO_COUNT,
    ] = 2048
    split_seed: Annotated[int, "Seed of the split, for data that comes without one.", SEED] = 0
    valid_share: Annotated[
        float,
        "Share of the samples for validation, for data without such a part.",
        Between(1e-6, SHARE.high),
    ] = 0.15
    test_share: Annotated[float, "Share of the test set; 0: none.", SHARE] = 0.15
    stratify: Annotated[bool, "Draw the parts with the same shares of each class."] = True
    group_by: Annotated[
        str | None,
        "Keep rows with the same values in these columns in one part; images, those with the same "
        "file name up to the last of these, such as _.",
    ] = None
    order_by: Annotated[
        str | None,
        "Columns of a table, such as a date: its last rows are the test set, those before them "
        "are for validation.",
    ] = None
    image_mode: Annotated[
        str | None, "gray or rgb, for the images of a folder (default: gray if all are)."
    ] = None
    resize: Annotated[
        str | None, "Fit images of another shape: crop (default), pad with black, or squash."
    ] = None
    delimiter: Annotated[
        str | None, "Of a .csv: comma, semicolon, tab, pipe or a character (default: guessed)."
    ] = None
    encoding: Annotated[str | None, "Of a .csv: utf-8, cp1252, ... (default: guessed)."] = None
    decimal: Annotated[str | None, "Of numbers in a .csv: . or , (default: guessed)."] = None
    na: Annotated[str | None, "Texts in a .csv that mean a gap too, such as unknown,-999."] = None
    text: Annotated[str | None, "A column of a table: its words are the input."] = None
    drop: Annotated[str | None, "Columns of a table to leave out, such as id,name."] = None
    categorical: Annotated[str | None, "Columns of a table that are categories."] = None
    numeric: Annotated[str | None, "Columns of a table that are numbers."] = None
    missing: Annotated[
        str, "Gaps in a table: median or mean, to fill them; drop, the rows; or error."
    ] = "median"
    embed_above: Annotated[
        int | None,
        "Embed columns of a table with more than N categories, for models that can (default: 8 "
        "for tabular).",
        UP_TO_COUNT,
    ] = None

    def open_data(self, tokenizer: str | None = None) -> "DataSplits":
        from plainfit.data.open_data import open_data

        names = names_of(DataSettings, without=("data",))
        with raised_as(DataError, f"{self.data} must be data that can be read"):
            given = {name: getattr(self, name) for name in names}
            return open_data(self.data, tokenizer=tokenizer, **given)


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Which model to build, from which seed, and where it goes."""

    model: Annotated[
        str,
        "logistic, mlp, tabular, cnn, compact, resnet, resnet18 (34, 50), unet; of text "
        "bag or transformer; or MODULE:CALLABLE, such as nets:Small for nets.py; auto: tabular for "
        "a table, bag for text, unet for images with masks, else resnet.",
    ] = "auto"
    model_args: Annotated[str | None, "Arguments of the model: width=32, blocks=(2, 2)."] = None
    channels_last: Annotated[bool, "Channels last in memory: often faster; other rounding."] = False
    seed: Annotated[int, "Seed of initial values, dropout and the order of samples.", SEED] = 0
    device: Annotated[str, "auto (an accelerator if there is one), cpu, cuda, mps, ..."] = "auto"

    @property
    def model_arguments(self) -> dict[str, Any]:
        """The arguments for the model, by name.

        >>> RunConfig(model_args="width=32, blocks=(2, 2)").model_arguments
        {'width': 32, 'blocks': (2, 2)}
        """
        return arguments_in(self.model_args, "model_args", "width=32, blocks=(2, 2)")


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """How a step changes the parameters."""

    optimizer: Annotated[
        str,
        "sgd, adam, adamw, rmsprop, or another class of torch.optim, such as nadam; auto: adamw "
        "for tables and text (tabular: with lr 0.003 and schedule one-cycle), else sgd.",
    ] = "auto"
    optimizer_args: Annotated[
        str | None, "Other arguments of the optimizer: betas=(0.9, 0.95), eps=1e-6."
    ] = None
    lr: Annotated[
        float | str | None,
        "Learning rate (default: 0.1 for sgd, 0.001 for adam, adamw and rmsprop, else torch's); "
        "auto: search for one.",
    ] = None
    momentum: Annotated[float | None, "Momentum (default: 0.9 for sgd, 0 for rmsprop).", SHARE] = (
        None
    )
    nesterov: Annotated[bool, "Nesterov momentum, for sgd."] = False
    weight_decay: Annotated[
        float | None,
        "Decay of weights, but not of biases and norms (default: torch's own).",
        UP_TO_AMOUNT,
    ] = None
    fused: Annotated[bool, "Update parameters in one kernel; other rounding; not rmsprop."] = False
    schedule: Annotated[
        str | None,
        "Learning rate by step: constant, linear, cosine, warmup-cosine, one-cycle, polynomial "
        "(default: one-cycle for tabular, else constant).",
    ] = None
    accumulate: Annotated[int, "Take a step every N batches, on their mean gradient.", COUNT] = 1
    clip: Annotated[float | None, "Scale gradients down to this norm.", AMOUNT] = None
    average: Annotated[
        float | None,
        "Validate and keep a moving average of the weights: its decay, such as 0.999.",
        SHARE,
    ] = None

    @property
    def optimizer_arguments(self) -> dict[str, Any]:
        """The arguments for the optimizer that have no setting of their own, by name."""
        found = arguments_in(self.optimizer_args, "optimizer_args", "betas=(0.9, 0.95), eps=1e-6")
        for name in found.keys() & names_of(OptimizerSettings):
            raise ConfigError(
                f"must be without {name}, which is {option(name)}", field="optimizer_args"
            )
        return found

    @property
    def rate(self) -> float | None:
        """The learning rate; None for the default, or to search for one."""
        return self.lr if isinstance(self.lr, float | int) else None


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How long to train, on which batches, and what to write."""

    epochs: Annotated[int, "Passes over the training data.", COUNT] = 10
    batch_size: Annotated[int, "Samples in a training batch.", COUNT] = 64
    drop_last: Annotated[bool, "Leave out a last training batch that is not full."] = False
    sampler: Annotated[
        str | None,
        "balanced: draw the training samples with replacement, each class as likely as another.",
    ] = None
    augment: Annotated[
        str,
        "Vary the training images: none, light, standard, strong, or names with ranges, such as "
        "rotate=10,horizontal-flip,mixup (docs/augmentation.md).",
    ] = "none"
    loss: Annotated[
        str | None, "For regression: mse (default), mae or huber, of standardised numbers."
    ] = None
    metrics: Annotated[str | None, "Metrics besides those of the task, such as f1,roc_auc."] = None
    class_weights: Annotated[
        str | None,
        """Weights of the classes in the loss: balanced, or all by name, '{"cat": 2, "dog": 1}'.""",
    ] = None
    label_smoothing: Annotated[float, "Amount of label smoothing: 0 to below 1.", SHARE] = 0.0
    monitor: Annotated[
        str | None, "What decides the best epoch, such as f1 (default: the validation loss)."
    ] = None
    patience: Annotated[
        int | None, "Stop after N epochs without a better validation loss, or --monitor.", COUNT
    ] = None
    time_limit: Annotated[
        float | None, "Stop after N seconds; resume continues.", Between(1e-9, 1e9)
    ] = None
    checkpoint_every: Annotated[
        int | None, "Write a checkpoint every N steps too (always: each epoch, each minute).", COUNT
    ] = None
    track: Annotated[str | None, "Send metrics to tensorboard, mlflow, wandb or trackio."] = None
    fsdp: Annotated[
        str | None,
        "Spread the parameters over the processes: auto, the layers of each list or sequence one "
        "by one, or names of layers, such as encoder,head.",
    ] = None
    precision: Annotated[
        str, "fp32, or bf16 or fp16 for matrix products and convolutions in that type."
    ] = "fp32"
    compile: Annotated[
        str | None,
        "Compile the steps: epoch, all of an epoch as one program, or step, each by itself. Slow "
        "at first, then faster; other rounding.",
    ] = None
    threads: Annotated[
        int | None,
        "CPU threads (default: one for small steps and for --shards, else all).",
        Between(1, 1024),
    ] = None
    shards: Annotated[
        int | None,
        "Cut each batch into N pieces: the same bits on up to N processes (default: 8 with "
        "several, else 1).",
        Between(1, 1024),
    ] = None
    reduce: Annotated[
        str, "How processes add gradients: exact, or fast, with other bits for another number."
    ] = "exact"
    sync_batch_norm: Annotated[
        bool, "With --reduce fast or --fsdp: batch norm over the batch of all processes."
    ] = False
    keep_memory: Annotated[bool, "Keep freed memory until the end: fewer page faults."] = True
    detect_anomaly: Annotated[bool, "Name the operation whose gradient is NaN; slow."] = False
    overfit_one_batch: Annotated[bool, "Train on one batch: a check that the model learns."] = False
    out: Annotated[Path | None, "New folder for the run (default: runs/TIME-DATA-MODEL)."] = None

    @property
    def weight_of_class(self) -> dict[str, float]:
        try:
            found: dict[str, float] = json.loads(self.class_weights or "{}")
        except ValueError as error:
            raise ConfigError(
                """must be balanced, or names with numbers, such as '{"cat": 2, "dog": 1}', got """
                f"{self.class_weights!r}",
                field="class_weights",
            ) from error
        if wrong := misfit(found, dict[str, Annotated[float, AMOUNT]], "class_weights"):
            raise ConfigError(wrong)
        return found


@dataclass(frozen=True, kw_only=True)
class TransferSettings:
    """What only a fine-tuning has: no options of `plainfit train` and `plainfit tune`."""

    source: Annotated[str | None, "Where the body comes from, for a fine-tuning."] = None
    freeze_epochs: Annotated[
        int, "Train the new head alone for the first N epochs.", UP_TO_COUNT
    ] = 1
    gradual: Annotated[bool, "Then unfreeze one more group of layers in each epoch."] = False
    lr_ratio: Annotated[
        float, "The head's learning rate divided by that of the first layers.", Between(1, 1e9)
    ] = 100.0


@dataclass(frozen=True, kw_only=True)
class RunConfig(TransferSettings, TrainingSettings, OptimizerSettings, ModelSettings, DataSettings):
    """All that a run depends on besides the machine; the groups are docs/decisions/0022.

    Raises:
        ConfigError: if a value is out of range. Names are checked where they are looked up.
    """

    def __post_init__(self) -> None:
        check_values(vars(self), hints_of(RunConfig))
        _ = self.model_arguments, self.optimizer_arguments  # raise
        if self.class_weights != "balanced":
            _ = self.weight_of_class  # raises
        if isinstance(self.lr, str):  # from the command line
            with suppress(ValueError):
                object.__setattr__(self, "lr", float(self.lr))
        limits = ["auto"] if isinstance(self.lr, str) else AMOUNT
        self.check("lr", limits.__contains__, f"{AMOUNT}, or auto")
        self.check_known("schedule", self.schedule, BY_NAME)
        self.check_known("tracker", self.track, TRACKERS)
        self.check_known("precision", self.precision, PRECISIONS)
        self.check_known("form", self.compile, FORMS)
        self.check_known("reduce", self.reduce, ("exact", "fast"))
        if self.sync_batch_norm and self.reduce == "exact" and self.fsdp is None:
            each = "with reduce='fast' or fsdp: add one of them, or leave it out"
            raise ConfigError(f"must be {each}", field="sync_batch_norm")
        if self.source is None:
            no_hub = "another than hf:NAME, which is a source of plainfit fine-tune"
            self.check("model", lambda model: not model.startswith("hf:"), no_hub)
        else:
            each = "a number, since a fine-tuning has a rate for each group of layers"
            self.check("lr", lambda lr: lr != "auto", each)
            limit = f"at most the number of epochs, {self.epochs}"
            self.check("freeze_epochs", lambda epochs: epochs <= self.epochs, limit)

    def check(self, name: str, test: Callable[[Any], bool], requirement: str) -> None:
        value = getattr(self, name)
        if value is not None and not test(value):
            raise ConfigError(f"must be {requirement}, got {value}", field=name)

    def check_known(self, kind: str, value: str | None, known: Collection[str]) -> None:
        if value is not None and value not in known:
            raise ConfigError(unknown_name(kind, value, known))

    @classmethod
    def from_dict(cls, record: dict[str, Any], **changes: Any) -> Self:
        """Return the settings that `to_dict` gave, with some changed; missing ones get defaults."""
        known = {item.name for item in fields(cls)}
        if unknown := record.keys() - known:
            raise ConfigError(
                f"the settings must be of this version of plainfit, and it does not know "
                f"{', '.join(sorted(unknown))}; use the version in run.json"
            )
        if isinstance(record.get("compile"), bool):  # of plainfit before epochs were programs
            record = record | {"compile": "step" if record["compile"] else None}
        folders = {n: Path(record[n]) for n in PATHS if isinstance(record.get(n), str)}
        return cls(**(record | folders | changes))

    def to_dict(self) -> dict[str, Any]:
        return {n: str(v) if isinstance(v, Path) else v for n, v in asdict(self).items()}

    def command(self) -> str:
        """Return the command line that trains the same again, in a new folder.

        >>> RunConfig(data="my data", epochs=3, keep_memory=False, out=Path("runs/1")).command()
        "plainfit train --data 'my data' --epochs 3 --no-keep-memory"
        """
        words, implied = ["train"], {"out", "source"}
        if self.source is not None:
            words = ["fine-tune", self.source]
            is_named = is_weights_only(self.source) and self.model != self.source
            implied |= set() if is_named else {"model"}
        if self.optimizer == usual_optimizer(self.model):
            implied.add("optimizer")
        for item in fields(self):
            value = getattr(self, item.name)
            if value == item.default or item.name in implied:
                continue
            if isinstance(value, bool):
                words.append(option(item.name) if value else f"--no-{option(item.name)[2:]}")
            elif str(value).startswith("-"):  # else it would be read as another option
                words.append(f"{option(item.name)}={value}")
            else:
                words += [option(item.name), str(value)]
        return command(*words)


def usual_optimizer(model: str) -> str:
    """Return what `auto` stands for; a text model of the Hub has the name of its source."""
    is_adaptive = model in ("tabular", "bag", "transformer") or model.startswith("hf:")
    return "adamw" if is_adaptive else "sgd"


def arguments_in(text: str | None, field: str, example: str) -> dict[str, Any]:
    try:
        call = ast.parse(f"call({text or ''})", mode="eval").body
        assert isinstance(call, ast.Call)
        if call.args or any(keyword.arg is None for keyword in call.keywords):
            raise ValueError
        found = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
        json.dumps(found, allow_nan=False)  # as run.json holds them
        return found
    except (
        SyntaxError, ValueError, TypeError, AssertionError, RecursionError, MemoryError
    ) as error:  # fmt: skip
        raise ConfigError(
            f"must be names with values, as in a call, such as {example!r}, got {text!r}",
            field=field,
        ) from error


def names_of(*groups: type, without: tuple[str, ...] = ()) -> list[str]:
    """
    >>> names_of(TransferSettings, without=("source",))
    ['freeze_epochs', 'gradual', 'lr_ratio']
    """
    names = [item.name for group in groups for item in fields(group)]
    return [name for name in names if name not in without]


def option(name: str) -> str:
    """
    >>> option("batch_size")
    '--batch-size'
    """
    return "--" + name.replace("_", "-")


def is_weights_only(source: str) -> bool:
    """Return whether a source of a fine-tuning is a file that does not name its architecture.

    >>> is_weights_only("net.pt"), is_weights_only("hf:me/net"), is_weights_only("resnet18")
    (True, True, False)
    """
    is_file = source.endswith(WEIGHT_FILES) and not Path(source).is_dir()
    return is_file or source.startswith("hf:")


# Chosen on MNIST's validation samples; docs/benchmarks.md has their scores on its test set.
OF_EVERY_PRESET: dict[str, Any] = {
    "model": "compact",
    "lr": 0.2,
    "schedule": "one-cycle",
    "nesterov": True,
    "weight_decay": 5e-4,
    "label_smoothing": 0.1,
    "channels_last": True,
    "precision": "bf16",
}
PRESETS: dict[str, dict[str, Any]] = {
    "fastest": {"model_args": "width=16, blocks=0", "epochs": 1, "batch_size": 128, "lr": 0.4},
    "fast": {"model_args": "width=16", "epochs": 6, "batch_size": 128, "augment": "warp=0.5"},
    "accurate": {"model_args": "width=32", "epochs": 18, "batch_size": 128, "augment": "warp=0.8"},
}


def preset(name: str) -> dict[str, Any]:
    if name not in PRESETS:
        raise ConfigError(unknown_name("preset", name, PRESETS))
    return OF_EVERY_PRESET | PRESETS[name]

"""From settings to all that a training needs, checked before anything is written."""

import inspect
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from plainfit.common.devices import device_of, threads_for
from plainfit.common.errors import (
    ConfigError,
    DataError,
    ModelError,
    TrainingError,
    raised_as,
    shortened,
)
from plainfit.common.schema import SHARDS
from plainfit.data.augment import named_steps
from plainfit.data.datasets import in_memory, resident
from plainfit.data.loaders import AugmentedLoader, Loader, get_data
from plainfit.data.open_data import TABLES
from plainfit.data.segmentation import mask_folders
from plainfit.data.splits import DataSplits, check_images
from plainfit.data.targets import REGRESSION
from plainfit.models.build import get_model, make_optimizer, resolve, to_device
from plainfit.models.layers import layer_groups, parameter_groups, try_batch
from plainfit.models.weights import HUB, load_model, text_tokenizer
from plainfit.runs import folder as runs
from plainfit.runs.fine_tuning import PhaseCycles, check_source, new_model
from plainfit.runs.settings import RunConfig, is_weights_only, option, usual_optimizer
from plainfit.runs.tasks import loss_function, metrics_of, with_weights
from plainfit.training import callbacks as cb
from plainfit.training.callbacks.tracking import make_tracker
from plainfit.training.checks import check_last_batch
from plainfit.training.hooks import Callback, Context
from plainfit.training.lr_finder import RateSearch, lr_find
from plainfit.training.metrics import metric_name
from plainfit.training.named_metrics import made
from plainfit.training.processes import is_launched, join
from plainfit.training.schedules import Schedule, named_schedule
from plainfit.training.spread import sharding_of, spread

EMBED_ABOVE = 8  # categories, for `tabular`: fewer are 0/1 inputs
CHOSEN = ("model", "optimizer", "lr", "schedule")  # for a table, where they are not given
MAX_WORKERS = 4  # processes that decode images; more wait for each other on a small machine
Say = Callable[[str], None]


@dataclass
class Parts:
    config: RunConfig
    data: DataSplits
    model: nn.Module
    opt: Optimizer
    train_dl: Loader
    valid_dl: Loader
    workers: int
    groups: list[list[str]] = field(default_factory=list)  # of layers, for a fine-tuning


@raised_as(ModelError, "a training needs data and a model")
def prepare(
    config: RunConfig, run: runs.Run | None = None, *, data: DataSplits | None = None
) -> Parts:
    """Open the data, unless it is given, build model and optimizer, make the loaders.

    To continue or repeat a `run`, its data must not have changed, and a fine-tuning starts from the
    weights that it started from.
    """
    if config.track is not None:
        make_tracker(config.track, Path())  # raises where its package is missing
    given, config = config, completed(config)
    if run is not None and config.shards != given.shards:
        raise ConfigError(
            "a run that has trained on whole batches goes on in one process, as pieces of them "
            "have other bits; leave out --processes, or begin a new run with them"
        )
    is_text_model = config.model == config.source and config.model.startswith(HUB)
    tokenizer = text_tokenizer(config.model) if is_text_model and run is None else None
    new_data = partial(config.open_data, tokenizer)
    data = data or opened_once(new_data if run is None else run.open_data)
    config = with_weights(completed(given, data.task), data)
    kind = "a table" if config.data.lower().endswith(TABLES) else data.task
    names = [n for n in CHOSEN if getattr(given, n) != getattr(config, n)]
    if kind in ("a table", REGRESSION) and names:
        note = " ".join([f"for {kind}:", *(f"{option(n)} {getattr(config, n)}" for n in names)])
        data = replace(data, notes=(*data.notes, note))
    loss_function(config, data.target)  # checks its settings, as these do the names
    columns = ["valid_loss", "train_loss", *map(metric_name, made(metrics_of(config, data.target)))]
    if (config.monitor or "valid_loss") not in columns:
        known = f"a column of the history, one of {', '.join(columns)}"
        raise ConfigError(f"must be {known}, got {config.monitor!r}", field="monitor")
    is_augmented = bool(named_steps(config.augment))
    if is_augmented:
        check_images(data)
    model, opt, groups = build(config, data, run)
    workers = min(MAX_WORKERS, os.cpu_count() or 1)
    device, budget = device_of(model), config.memory_budget
    train_ds, valid_ds = (resident(part, device, budget) for part in (data.train, data.valid))
    train_dl, valid_dl = get_data(
        train_ds,
        valid_ds,
        config.batch_size,
        seed=config.seed,
        drop_last=config.drop_last,
        num_workers=workers,
        sampler=config.sampler,
    )
    if is_augmented:
        classes = data.mixed_classes
        train_dl = AugmentedLoader(
            train_dl, config.augment, config.seed, classes=classes, device=device
        )
    if not config.overfit_one_batch:
        check_last_batch(model, train_dl)
    context = Context(model, opt, train_dl, transformers(config, groups), config.epochs, None)
    if sharding := sharding_of(context, config.shards, config.reduce, join()):  # as in fit
        sharding.check_size(min(config.batch_size, data.counts()["train"]))
    return Parts(config, data, model, opt, train_dl, valid_dl, workers, groups)


def opened_once(open_data: Callable[[], DataSplits]) -> DataSplits:
    """Open data; what is in memory is there once for all processes of this machine."""

    own: list[DataSplits] = []

    def in_one_place() -> DataSplits | None:
        own.append(open_data())
        return own[0] if all(map(in_memory, own[0].parts().values())) else None

    return join().once_per_machine(in_one_place) or (own[0] if own else open_data())


def completed(config: RunConfig, task: str | None = None) -> RunConfig:
    """Return the settings with a choice for what is left to the kind of data and of model.

    The squared error of numbers is too steep for the usual rate of SGD.
    """
    is_table = config.data.lower().endswith(TABLES)
    model, optimizer, above = config.model, config.optimizer, config.embed_above
    lr, schedule = config.lr, config.schedule
    if model == "auto":
        has_masks = Path(config.data).is_dir() and mask_folders(Path(config.data))
        other = "unet" if has_masks else "resnet"
        for_table = "tabular" if config.text is None else "bag"
        model = for_table if is_table and config.source is None else other
    if optimizer == "auto" and (config.momentum is not None or config.nesterov):
        optimizer = "sgd"
    if optimizer == "auto" and model == "tabular" and config.source is None:
        lr, schedule = lr or 0.003, schedule or "one-cycle"  # docs/data.md has their scores
    if optimizer == "auto":
        is_steep = task == REGRESSION and lr is None and config.source is None
        optimizer = "adamw" if is_steep else usual_optimizer(model)
    if above is None and is_table and model == "tabular":
        above = EMBED_ABOVE
    is_exact = config.reduce == "exact" and config.fsdp is None
    shards = config.shards or (SHARDS if is_launched() and is_exact else None)
    chosen: dict[str, Any] = {"model": model, "optimizer": optimizer, "lr": lr, "shards": shards}
    return replace(config, **chosen, schedule=schedule, embed_above=above)


def build(
    config: RunConfig, data: DataSplits, run: runs.Run | None
) -> tuple[nn.Module, Optimizer, list[list[str]]]:
    shape: dict[str, Any] = {"input_shape": data.input_shape, "classes": len(data.target.names)}
    arguments, options = config.model_arguments, optimizer_options(config)
    if config.source is None:
        names = ("optimizer", "seed", "device", "channels_last")
        settings = {name: getattr(config, name) for name in names}
        # A run may come from a stranger: what it names is imported only if it is trusted.
        target = resolve(config.model if run is None else run.factory.target)
        if data.embeddings:
            arguments = {"embeddings": data.embeddings} | arguments
            if "embeddings" not in inspect.signature(target).parameters:
                raise ConfigError(
                    "is for models with a parameter `embeddings`, such as --model tabular, got "
                    f"{config.embed_above} with {config.model}; leave it out",
                    field="embed_above",
                )
        shape["vocabulary"] = data.vocabulary
        model, opt = get_model(target, **settings, arguments=arguments, **shape, **options)
        if config.sync_batch_norm:
            nn.SyncBatchNorm.convert_sync_batchnorm(model)  # of which the parameters stay
        if config.fsdp is not None and (run is None or join().world > 1):
            spread(model, [] if config.fsdp == "auto" else config.fsdp.split(","))
            opt = make_optimizer(config.optimizer, model, **options)  # of the new parameters
        return model, opt, []
    if config.fsdp is not None:
        raise ConfigError("is for a new model, got one to fine-tune; leave it out", field="fsdp")
    if run is None:
        check_source(config.source, data)
        name = config.model if is_weights_only(config.source) else None
        model = new_model(config.source, name, arguments, seed=config.seed, **shape)
    else:
        model = run.factory.build()
        load_model(model, run.folder / runs.FIRST)
        model.plainfit_factory = run.factory  # type: ignore[assignment]  # as get_model leaves it
    if config.sync_batch_norm:
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
    to_device(model, config.device, config.channels_last)
    groups = layer_groups(model, data.valid[0][0].unsqueeze(0))
    layers = parameter_groups(model, groups, config.lr_ratio)
    return model, make_optimizer(config.optimizer, model, layers=layers, **options), groups


def optimizer_options(config: RunConfig) -> dict[str, Any]:
    names = ("momentum", "nesterov", "weight_decay", "fused")
    arguments = {"optimizer_args": config.optimizer_arguments}
    return {"lr": config.rate, **arguments, **{name: getattr(config, name) for name in names}}


def schedule_of(config: RunConfig, steps: int) -> Schedule | None:
    if config.schedule is not None:
        return named_schedule(config.schedule, config.epochs * steps)
    if config.source is not None:
        return PhaseCycles(config.epochs * steps, config.freeze_epochs * steps)
    return None


def transformers(config: RunConfig, groups: Sequence[Sequence[str]] = ()) -> list[Callback]:
    """Return the callbacks that change the training; `groups` of layers are for a fine-tuning."""
    return [
        *([cb.Unfreezing(groups, config.freeze_epochs, config.gradual)] if groups else []),
        *([cb.OverfitOneBatch()] if config.overfit_one_batch else []),
        *([cb.GradientAccumulation(config.accumulate)] if config.accumulate > 1 else []),
        *([] if config.clip is None else [cb.GradientClipping(config.clip)]),
        *([] if config.average is None else [cb.Averaging(config.average)]),
    ]


def check_outputs(model: nn.Module, dl: Iterable[Any], names: Sequence[str]) -> None:
    with raised_as(DataError, "the data must give batches"):
        xb, yb = next(iter(dl))
    out, outputs = try_batch(model, xb), len(names)
    wanted = (len(yb), outputs, *(yb.shape[1:] if yb.dim() == 3 else ()))  # for each pixel
    if not isinstance(out, Tensor) or out.shape != wanted:
        got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise ModelError(
            f"the model must give one output for each of {outputs} ({shortened(names)}), "
            f"shape {wanted} for {len(yb)} samples, got {got}; give your class or function a "
            "parameter `classes`, which receives their number"
        )


def threads_of(parts: Parts) -> int:
    if parts.config.threads is not None:
        return parts.config.threads
    if parts.config.shards is not None or is_launched():
        return 1  # on any number of processes: the bits depend on it
    x, _ = parts.data.valid[0]  # a batch of the loader would start its workers again
    sample = x.unsqueeze(0).to(device_of(parts.model))
    return threads_for(parts.model, sample, parts.config.batch_size)


def search_rate(parts: Parts) -> RateSearch:
    with raised_as(TrainingError, "a search for a learning rate must train some steps"):
        loss = loss_function(parts.config, parts.data.target, device_of(parts.model))
        return lr_find(parts.model, loss, parts.opt, parts.train_dl)


def find_rate(parts: Parts, say: Say) -> None:
    rate = float(f"{search_rate(parts).valley:.2g}")  # it knows no more than two digits
    say(f"lr     {rate:g}, the valley of a search from 1e-07 to 10")
    parts.config = config = replace(parts.config, lr=rate)
    parts.opt = make_optimizer(config.optimizer, parts.model, **optimizer_options(config))

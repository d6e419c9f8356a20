"""From settings to what `fit` takes, checked before anything is written."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from plainfit.common.devices import device_of, fingerprint, threads_for, versions
from plainfit.common.errors import ModelError
from plainfit.data.augment import named_steps
from plainfit.data.loaders import AugmentedLoader, Loader, get_data, resident
from plainfit.data.splits import DataSplits, check_images
from plainfit.models.build import get_model, make_optimizer, to_device
from plainfit.models.summary import count_parameters, try_batch
from plainfit.models.transfer import layer_groups, parameter_groups
from plainfit.runs import folder as runs
from plainfit.runs.fine_tuning import PhaseCycles, begun_model, new_model
from plainfit.runs.settings import RunConfig, is_weights_only
from plainfit.training import callbacks as cb
from plainfit.training.callbacks.tracking import make_tracker
from plainfit.training.hooks import Callback
from plainfit.training.lr_finder import lr_find
from plainfit.training.schedules import Schedule, named_schedule

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
    groups: list[list[str]] = field(default_factory=list)
    """The names of the layers from the input to the head, for a fine-tuning."""


def prepare(config: RunConfig, run: runs.Run | None = None) -> Parts:
    """Open the data, build model and optimizer, make the loaders.

    To continue or repeat a `run`, its data must not have changed, and a fine-tuning starts from the
    weights that it started from.
    """
    if config.track is not None:
        make_tracker(config.track, Path())  # raises where its package is missing
    data = config.open_data() if run is None else run.open_data()
    is_augmented = bool(named_steps(config.augment))  # checks the names
    if is_augmented:
        check_images(data)
    model, opt, groups = build(config, data, run)
    workers = min(MAX_WORKERS, os.cpu_count() or 1)
    device, budget = device_of(model), config.memory_budget
    train_ds, valid_ds = (resident(part, device, budget) for part in (data.train, data.valid))
    train_dl, valid_dl = get_data(
        train_ds, valid_ds, config.batch_size, seed=config.seed, num_workers=workers
    )
    if is_augmented:
        train_dl = AugmentedLoader(
            train_dl, config.augment, config.seed, classes=len(data.classes), device=device
        )
    return Parts(config, data, model, opt, train_dl, valid_dl, workers, groups)


def build(
    config: RunConfig, data: DataSplits, run: runs.Run | None
) -> tuple[nn.Module, Optimizer, list[list[str]]]:
    shape: dict[str, Any] = {"input_shape": data.input_shape, "classes": len(data.classes)}
    arguments, options = config.model_arguments, optimizer_options(config)
    if config.source is None:
        names = ("model", "optimizer", "seed", "device", "channels_last")
        settings = {name: getattr(config, name) for name in names}
        return *get_model(**settings, arguments=arguments, **shape, **options), []
    if run is None:
        name = config.model if is_weights_only(config.source) else None
        model = new_model(config.source, name, arguments, seed=config.seed, **shape)
    else:
        model = begun_model(run.factory, run.folder / runs.FIRST)
    to_device(model, config.device, config.channels_last)
    groups = layer_groups(model, data.valid[0][0].unsqueeze(0))
    layers = parameter_groups(model, groups, config.lr_ratio)
    return model, make_optimizer(config.optimizer, model, layers=layers, **options), groups


def optimizer_options(config: RunConfig) -> dict[str, Any]:
    names = ("momentum", "nesterov", "weight_decay", "fused")
    return {"lr": config.rate, **{name: getattr(config, name) for name in names}}


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


def loss_function(config: RunConfig) -> Callable[[Any, Any], Tensor]:
    if not config.label_smoothing:
        return F.cross_entropy
    return partial(F.cross_entropy, label_smoothing=config.label_smoothing)


def observers(config: RunConfig, folder: Path) -> list[Callback]:
    """Return the callbacks that write files, and those that stop a training."""
    settings = {name: value for name, value in config.to_dict().items() if value is not None}
    tracked = folder / "tracked"
    return [
        cb.BestWeights(folder / runs.BEST),
        cb.JsonLinesLog(folder / runs.METRICS),
        cb.StepLog(folder / runs.STEPS),
        *([cb.Tracking(config.track, tracked, settings)] if config.track is not None else []),
        *([cb.EarlyStopping(config.patience)] if config.patience is not None else []),
        *([cb.TimeLimit(config.time_limit)] if config.time_limit is not None else []),
    ]


def find_rate(parts: Parts, say: Say) -> None:
    search = lr_find(parts.model, loss_function(parts.config), parts.opt, parts.train_dl)
    rate = float(f"{search.valley:.2g}")  # such a search knows no more than two digits
    say(f"lr     {rate:g}, the valley of a search from 1e-07 to 10")
    parts.config = config = replace(parts.config, lr=rate)
    parts.opt = make_optimizer(config.optimizer, parts.model, **optimizer_options(config))


def check_outputs(model: nn.Module, dl: Loader, classes: int, what: str = "classes") -> None:
    xb, yb = next(iter(dl))
    out = try_batch(model, xb)
    if not isinstance(out, Tensor) or out.shape != (len(yb), classes):
        got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise ModelError(
            f"the model must give one score for each of the {classes} {what}, shape "
            f"({len(yb)}, {classes}) for {len(yb)} samples, got {got}; give your class or function "
            "a parameter `classes`, which receives their number"
        )


def threads_of(parts: Parts) -> int:
    if parts.config.threads is not None:
        return parts.config.threads
    x, _ = parts.data.valid[0]  # a batch of the loader would start its workers again
    sample = x.unsqueeze(0).to(device_of(parts.model))
    return threads_for(parts.model, sample, parts.config.batch_size)


def make_record(parts: Parts) -> dict[str, Any]:
    config, data, model, opt = parts.config, parts.data, parts.model, parts.opt
    options = {name: value for name, value in opt.defaults.items() if name != "params"}
    layers = rates_of(parts)
    return {
        "state": "started",
        "config": config.to_dict(),
        "model": model.plainfit_factory.to_dict(),  # type: ignore[union-attr,operator]
        "parameters": count_parameters(model),
        "optimizer": {"name": type(opt).__name__, "options": options},
        **({"layers": layers} if layers else {}),
        "loss": "torch.nn.functional:cross_entropy",
        "data": data.to_dict(),
        "versions": versions(),
        "fingerprint": fingerprint(device_of(model)),
    }


def rates_of(parts: Parts) -> list[dict[str, Any]]:
    layers = parameter_groups(parts.model, parts.groups, parts.config.lr_ratio)
    lr = parts.opt.defaults["lr"]
    return [
        {"layers": names, "lr": lr * factor, "parameters": sum(p.numel() for p in params)}
        for names, (params, factor) in zip(parts.groups, layers, strict=True)
    ]


def describe(parts: Parts) -> str:
    data, model = parts.data, parts.model
    counts = ", ".join(f"{count:,} {part}" for part, count in data.counts().items())
    shape = "x".join(map(str, data.input_shape))
    lines = [
        f"data   {data.name}: {counts}; {len(data.classes)} classes; samples of {shape}",
        *(f"note   {note}" for note in data.notes),
        f"model  {type(model).__name__}: {count_parameters(model):,} parameters on "
        f"{device_of(model)}",
        *(f"rate   {row['lr']:<8.2g} {', '.join(row['layers'])}" for row in rates_of(parts)),
    ]
    return "\n".join(lines)

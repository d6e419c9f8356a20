"""The parts of a run, made from its settings and checked before anything is written."""

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
from plainfit.data.loaders import Loader, get_data, resident
from plainfit.data.open_data import open_data
from plainfit.data.splits import DataSplits, check_images
from plainfit.data.wrapping import AugmentedLoader
from plainfit.models.build import Factory, get_model, make_optimizer, to_device
from plainfit.models.summary import count_parameters, try_batch
from plainfit.runs import folder as runs
from plainfit.runs.fine_tuning import PhaseCycles, layer_groups, parameter_groups
from plainfit.runs.pretrained import begun_model, new_model, says_its_model
from plainfit.runs.settings import DATA_FIELDS, RunConfig
from plainfit.training import callbacks as cb
from plainfit.training.callbacks.tracking import make_tracker
from plainfit.training.hooks import Callback
from plainfit.training.lr_finder import lr_find
from plainfit.training.schedules import Schedule, named_schedule

MOST_WORKERS = 4  # processes that decode images; more wait for each other on a small machine
Say = Callable[[str], None]
Layers = Sequence[tuple[list[Tensor], float]]


@dataclass
class Parts:
    """What a run is made of."""

    config: RunConfig
    data: DataSplits
    model: nn.Module
    opt: Optimizer
    train_dl: Loader
    valid_dl: Loader
    workers: int
    groups: list[list[str]] = field(default_factory=list)
    """The names of the layers from the input to the head, where it is a fine-tuning."""


def assemble(config: RunConfig, folder: Path | None = None) -> Parts:
    """Open the data, build model and optimizer, make the loaders.

    Args:
        config: the settings.
        folder: of a run that is there, for the weights that a fine-tuning began with.
    """
    if config.track is not None:
        make_tracker(config.track, Path())  # is its package there?
    data = open_data(config.data, **{name: getattr(config, name) for name in DATA_FIELDS})
    is_augmented = bool(named_steps(config.augment))  # checks the names
    if is_augmented:
        check_images(data)
    model, opt, groups = build(config, data, folder)
    workers = min(MOST_WORKERS, os.cpu_count() or 1)
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
    config: RunConfig, data: DataSplits, folder: Path | None
) -> tuple[nn.Module, Optimizer, list[list[str]]]:
    """Return the model, its optimizer, and its groups of layers for a fine-tuning."""
    if config.source is None:
        model, opt = get_model(
            config.model,
            optimizer=config.optimizer,
            lr=config.rate,
            momentum=config.momentum,
            input_shape=data.input_shape,
            classes=len(data.classes),
            seed=config.seed,
            device=config.device,
            fused=config.fused,
            channels_last=config.channels_last,
            weight_decay=config.weight_decay,
            nesterov=config.nesterov,
            arguments=config.model_arguments,
        )
        return model, opt, []
    if folder is None:
        model = new_model(
            config.source,
            None if says_its_model(config.source) else config.model,
            config.model_arguments,
            input_shape=data.input_shape,
            classes=len(data.classes),
            seed=config.seed,
        )
    else:
        model = begun_model(Factory(**runs.read_record(folder)["model"]), folder / runs.FIRST)
    to_device(model, config.device, config.channels_last)
    groups = layer_groups(model, data.valid[0][0].unsqueeze(0))
    layers = parameter_groups(model, groups, config.lr_ratio)
    return model, optimizer_by(config, model, layers), groups


def optimizer_by(config: RunConfig, model: nn.Module, layers: Layers = ()) -> Optimizer:
    """Return the optimizer of the settings over a model's parameters."""
    return make_optimizer(
        config.optimizer,
        model,
        lr=config.rate,
        momentum=config.momentum,
        fused=config.fused,
        weight_decay=config.weight_decay,
        nesterov=config.nesterov,
        layers=layers,
    )


def schedule_of(config: RunConfig, steps: int) -> Schedule | None:
    """Return the schedule of the settings over all epochs of so many steps; None for a constant."""
    if config.schedule is None:
        if config.source is None:
            return None
        return PhaseCycles(config.epochs * steps, config.freeze_epochs * steps)
    return named_schedule(config.schedule, config.epochs * steps)


def transformers(config: RunConfig, groups: Sequence[Sequence[str]] = ()) -> list[Callback]:
    """Return the callbacks that change the training as the settings say.

    Args:
        config: the settings.
        groups: the names of the layers from the input to the head, for a fine-tuning.
    """
    unfreezing = cb.Unfreezing(groups, config.freeze_epochs, config.gradual) if groups else None
    return [
        *([unfreezing] if unfreezing else []),
        *([cb.OverfitOneBatch()] if config.overfit_one_batch else []),
        *([cb.GradientAccumulation(config.accumulate)] if config.accumulate > 1 else []),
        *([cb.GradientClipping(config.clip)] if config.clip is not None else []),
        *([cb.Averaging(config.average)] if config.average is not None else []),
    ]


def loss_function(config: RunConfig) -> Callable[[Any, Any], Tensor]:
    """Return the cross-entropy, towards smoothed labels where that is asked for."""
    if not config.label_smoothing:
        return F.cross_entropy
    return partial(F.cross_entropy, label_smoothing=config.label_smoothing)


def logs(config: RunConfig, folder: Path) -> list[Callback]:
    """Return the callbacks that watch, and those that stop."""
    return [
        cb.JsonLinesLog(folder / runs.METRICS),
        cb.StepLog(folder / runs.STEPS),
        *([tracking(config, folder)] if config.track is not None else []),
        *([cb.EarlyStopping(config.patience)] if config.patience is not None else []),
        *([cb.TimeLimit(config.time_limit)] if config.time_limit is not None else []),
    ]


def tracking(config: RunConfig, folder: Path) -> Callback:
    """Return the callback that sends figures to a tracker, with the settings."""
    assert config.track is not None
    settings = {name: value for name, value in config.to_dict().items() if value is not None}
    return cb.Tracking(config.track, folder / "tracked", settings)


def find_rate(parts: Parts, say: Say) -> None:
    """Look for a learning rate, and make the optimizer with it."""
    search = lr_find(parts.model, loss_function(parts.config), parts.opt, parts.train_dl)
    rate = float(f"{search.valley:.2g}")  # two digits say all that such a search knows
    say(f"lr     {rate:g}, the valley of a search from 1e-07 to 10")
    parts.config = replace(parts.config, lr=rate)
    parts.opt = optimizer_by(parts.config, parts.model)


def check_outputs(model: nn.Module, dl: Loader, classes: int, what: str = "classes") -> None:
    """Check, before anything is written, that the model takes the data and scores every class."""
    xb, yb = next(iter(dl))
    out = try_batch(model, xb)
    if not isinstance(out, Tensor) or out.shape != (len(yb), classes):
        got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise ModelError(
            f"the model must give one score for each of the {classes} {what}, shape "
            f"({len(yb)}, {classes}) for {len(yb)} samples, got {got}; a parameter `classes` of "
            "your class or function receives their number"
        )


def threads_of(parts: Parts) -> int:
    """Return how many threads train: as the settings say, or by the rule for the work of a step."""
    if parts.config.threads is not None:
        return parts.config.threads
    x, _ = parts.data.valid[0]  # of the loader, even one batch would start its workers again
    sample = x.unsqueeze(0).to(device_of(parts.model))
    return threads_for(parts.model, sample, parts.config.batch_size)


def make_record(parts: Parts) -> dict[str, Any]:
    """Return `run.json` as it stands when training starts."""
    config, data, model, opt = parts.config, parts.data, parts.model, parts.opt
    options = {name: value for name, value in opt.defaults.items() if name != "params"}
    layers = rates_of(parts)
    return {
        "state": "started",
        "config": config.to_dict(),
        "model": model.plainfit_factory.to_dict(),  # type: ignore[union-attr,operator]
        "optimizer": {"name": type(opt).__name__, "options": options},
        **({"layers": layers} if layers else {}),
        "loss": "torch.nn.functional:cross_entropy",
        "data": data.to_dict(),
        "versions": versions(),
        "fingerprint": fingerprint(device_of(model)),
    }


def rates_of(parts: Parts) -> list[dict[str, Any]]:
    """Return each group of layers of a fine-tuning with its highest rate and its size."""
    layers = parameter_groups(parts.model, parts.groups, parts.config.lr_ratio)
    return [
        {
            "layers": names,
            "lr": parts.opt.defaults["lr"] * factor,
            "parameters": sum(parameter.numel() for parameter in params),
        }
        for names, (params, factor) in zip(parts.groups, layers, strict=True)
    ]


def describe(parts: Parts) -> str:
    """Return what is trained on what: a line for each of data, notes, model, groups of layers."""
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

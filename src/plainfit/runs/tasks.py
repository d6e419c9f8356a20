"""What follows from the task of a training: its loss, its metrics, and what its outputs mean."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from plainfit.common.errors import ConfigError, plural, shortened, unknown_name
from plainfit.data.splits import DataSplits
from plainfit.data.targets import CLASSIFICATION, MULTI_LABEL, REGRESSION, SEGMENTATION, Target
from plainfit.runs.settings import RunConfig
from plainfit.training.metrics import (
    Overlap,
    accuracy,
    f1,
    mae,
    metric_name,
    r2,
    rmse,
    subset_accuracy,
)

Loss = Callable[..., Tensor]
OF_CLASSES = (CLASSIFICATION, SEGMENTATION)

# The names of `loss` by task, the default first.
LOSSES: dict[str, dict[str, Loss]] = {
    CLASSIFICATION: {"cross_entropy": F.cross_entropy},
    REGRESSION: {"mse": F.mse_loss, "mae": F.l1_loss, "huber": F.huber_loss},
    MULTI_LABEL: {"bce": F.binary_cross_entropy_with_logits},
    SEGMENTATION: {"cross_entropy": F.cross_entropy},
}


def with_weights(config: RunConfig, data: DataSplits) -> RunConfig:
    """Return the settings with numbers for balanced weights of the classes, of their mean 1."""
    if config.class_weights != "balanced" or data.task not in OF_CLASSES:
        return config
    counts = data.class_counts()["train"]
    of_each = [sum(counts) / (len(counts) * max(1, count)) for count in counts]
    return replace(config, class_weights=json.dumps(dict(zip(data.classes, of_each, strict=True))))


def loss_function(config: RunConfig, target: Target, device: torch.device | None = None) -> Loss:
    known = LOSSES[target.task]
    name = config.loss or next(iter(known))
    if name not in known:
        raise ConfigError(unknown_name(f"loss for {target.task}", name, known))
    options: dict[str, Any] = {}
    for field in ("label_smoothing", "class_weights"):
        if getattr(config, field) and target.task not in OF_CLASSES:
            raise ConfigError(
                f"is for classification, and the task is {target.task}; leave it out", field=field
            )
    if config.label_smoothing:
        options["label_smoothing"] = config.label_smoothing
    if weights := config.weight_of_class:
        if unknown := sorted(weights.keys() - target.names):
            raise ConfigError(unknown_name("class", unknown[0], target.names))
        if missing := [name for name in target.names if name not in weights]:
            raise ConfigError(
                f"must be of all classes, and lacks {shortened(missing)}", field="class_weights"
            )
        numbers = [float(weights[name]) for name in target.names]
        options["weight"] = torch.tensor(numbers, device=device)
    return partial(known[name], **options) if options else known[name]


def metrics_of(config: RunConfig, target: Target) -> list[Any]:
    """Return the metrics of the task, numbers in their units, and those of the settings."""
    of_tasks: dict[str, list[Any]] = {
        CLASSIFICATION: [accuracy],
        MULTI_LABEL: [subset_accuracy, f1],
        REGRESSION: [r2],
        SEGMENTATION: [accuracy, Overlap("iou"), Overlap("dice")],
    }
    usual = of_tasks[target.task]
    if len(target.scaling) == 1:
        std = target.scaling[0].std
        usual = [partial(mae, scale=std), partial(rmse, scale=std), *usual]
    names = [*map(metric_name, usual), ""]
    asked = map(str.strip, (config.metrics or "").split(","))
    return [*usual, *(name for name in asked if name not in names)]


def is_imbalanced(data: DataSplits) -> bool:
    """Return whether the smallest class has under 10 % of the samples, and far less than others."""
    if data.task != CLASSIFICATION:
        return False
    of_classes = [sum(counts) for counts in zip(*data.class_counts().values(), strict=True)]
    return bool(min(of_classes) < sum(of_classes) * min(0.1, 1 / (3 * len(of_classes))))


def balanced_accuracy(out: Tensor, yb: Tensor) -> Tensor:
    counts = yb.bincount()
    right = yb[out.argmax(dim=1) == yb].bincount(minlength=len(counts))
    return (right / counts)[counts > 0].mean()


def described(target: Target) -> str:
    """
    >>> described(Target(("cat", "dog")))
    '2 classes'
    >>> described(Target(("price",), REGRESSION, ((1e5, 2e4),)))
    'the number price, of mean 100000 and standard deviation 20000'
    """
    count = len(target.names)
    if target.task == CLASSIFICATION:
        return f"{count} classes"
    if target.task == MULTI_LABEL:
        return f"{plural(count, 'label')}, each there or not"
    if target.task == SEGMENTATION:
        return f"{count} classes of pixels"
    if count > 1:
        return f"the numbers {shortened(target.names)}"
    mean, std = target.scaling[0]
    return f"the number {target.names[0]}, of mean {mean:.6g} and standard deviation {std:.6g}"

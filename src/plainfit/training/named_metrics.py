"""Metrics by name: ours, and those of torchmetrics, made to fit the first batch."""

import re
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from plainfit.common.errors import ConfigError, raised_as, unknown_name
from plainfit.training.checks import is_list, is_made, shown
from plainfit.training.metrics import (
    Mean,
    Metric,
    accuracy,
    check_names,
    class_dim,
    fitting,
    metric_name,
)

MACRO = {"average": "macro"}  # the mean over the classes, or over the labels
KINDS: dict[str, tuple[str, dict[str, Any]]] = {  # the class of torchmetrics, and its options
    "balanced_accuracy": ("ConfusionMatrix", {}),
    "binary_accuracy": ("Accuracy", {}),
    "dice": ("F1Score", MACRO),
    "f1": ("F1Score", MACRO),
    "iou": ("JaccardIndex", MACRO),
    "mae": ("MeanAbsoluteError", {}),
    "mse": ("MeanSquaredError", {}),
    "precision": ("Precision", MACRO),
    "r2": ("R2Score", {}),
    "recall": ("Recall", MACRO),
    "rmse": ("MeanSquaredError", {"squared": False}),
    "roc_auc": ("AUROC", MACRO),
}
NUMBERS = ("mae", "mse", "r2", "rmse")  # of targets that are numbers
NAMES = ("accuracy", "perplexity", "top5_accuracy", *KINDS)


def made(metrics: Sequence[Metric | str]) -> list[Any]:
    """Return metrics with objects in place of names, all with different names."""
    if not (is_list(metrics) and all(isinstance(m, str) or is_made(m) for m in metrics)):
        raise ConfigError(
            f"must be a list of names, functions or metric objects, got {shown(metrics)}; write "
            "metrics=['accuracy']",
            field="metrics",
        )
    found = [by_name(metric) if isinstance(metric, str) else metric for metric in metrics]
    check_names([metric_name(metric) for metric in found])
    return found


def by_name(name: str) -> Any:
    if name == "accuracy":
        return accuracy
    if name == "perplexity":
        return Mean(name, negative_log_likelihood, torch.exp)
    if top := re.fullmatch(r"top(\d+)_accuracy", name):
        return NamedMetric(name, "Accuracy", {"average": "micro", "top_k": int(top[1])})
    if name not in KINDS:
        raise ConfigError(unknown_name("metric", name, NAMES))
    return NamedMetric(name, *KINDS[name])


def negative_log_likelihood(out: Tensor, yb: Tensor) -> tuple[Tensor, Tensor]:
    scores = out.movedim(class_dim(out, yb), 1)
    return F.cross_entropy(scores.float(), yb, reduction="sum"), (yb != -100).sum()


class NamedMetric:
    """A metric of torchmetrics, for the task and the classes that the first batch shows."""

    def __init__(self, name: str, kind: str, options: dict[str, Any]) -> None:
        self.__name__ = name
        self.options = options
        with raised_as(ConfigError, f"the metric {name!r} needs pip install 'plainfit[metrics]'"):
            self.kind = getattr(import_module("torchmetrics"), kind)
        self.metric: Any = None
        self.is_logits: bool | None = None

    def reset(self) -> None:
        if self.metric is not None:
            self.metric.reset()

    def modules(self) -> Iterable[Any]:
        return [] if self.metric is None else self.metric.modules()

    def update(self, out: Any, yb: Any) -> None:
        with fitting(self.__name__, out, yb):
            arranged = self.numbers if self.__name__ in NUMBERS else self.classes
            pred, target, task = arranged(out, yb)
            if self.metric is None:
                self.metric = self.kind(**task, **self.options).to(pred.device)
            self.metric.update(pred, target.to(pred.device))

    def compute(self) -> Any:
        value = self.metric.compute()
        if self.__name__ == "balanced_accuracy":  # the mean over the classes that there are
            return (value.diag() / value.sum(1)).nanmean()
        return value

    def numbers(self, out: Tensor, yb: Tensor) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """Return predictions and targets of one shape; float64, as R2 subtracts large sums."""
        check_alike(out, yb)
        return out.reshape(yb.shape).cpu().double(), yb.cpu().double(), {}

    def classes(self, out: Tensor, yb: Tensor) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """Return predictions, their labels, and the task as torchmetrics calls it."""
        task: dict[str, Any] = {"task": "multiclass", "ignore_index": -100}
        labels = yb.long()
        if bool((labels != yb).any()):
            raise ValueError("labels must be whole numbers")
        if out.numel() != yb.numel() or "top_k" in self.options:
            rows = out.movedim(class_dim(out, yb), -1).flatten(0, -2)
            task["num_classes"] = rows.shape[1]
            if self.__name__ == "roc_auc":
                rows = self.probabilities(rows, torch.softmax, 1)
            elif "top_k" not in self.options:
                rows = rows.argmax(1)
            return rows, labels.flatten(), task
        check_alike(out, yb)
        out = self.probabilities(out, torch.sigmoid)
        has_labels = out.shape == yb.shape and yb.shape[1:2].numel() > 1
        if has_labels and self.__name__ != "binary_accuracy":
            if yb.dim() > 2 or self.__name__ == "balanced_accuracy":
                raise ValueError("it is not clear which of the labels of a sample are of a kind")
            return out, labels, task | {"task": "multilabel", "num_labels": yb.shape[1]}
        return out.flatten(), labels.flatten(), task | {"task": "binary"}

    def probabilities(self, out: Tensor, function: Callable[..., Tensor], *dim: int) -> Tensor:
        """Return probabilities, of logits too; torchmetrics would decide anew in every batch."""
        outside = bool(((out < 0) | (out > 1)).any())
        if self.is_logits is None:
            self.is_logits = outside
        if outside and not self.is_logits:
            raise ValueError("the outputs of the first batch were probabilities, and these are not")
        return function(out.cpu().double(), *dim) if self.is_logits else out.cpu()


def check_alike(out: Tensor, yb: Tensor) -> None:
    if out.squeeze().shape != yb.squeeze().shape:
        raise ValueError("each target needs one output")

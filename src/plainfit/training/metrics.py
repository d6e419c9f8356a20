"""Metrics: plain functions `(pred, yb) -> tensor`, or torchmetrics objects."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from plainfit.data.batches import join

TAKEN = ("loss", "epoch", "train_loss", "valid_loss", "seconds", "samples_per_second")
Metric = Callable[[Any, Any], Any]
"""A function, or an object with `reset`, `update(pred, yb)` and `compute`."""


def accuracy(out: Tensor, yb: Tensor) -> Tensor:
    """Return the share of samples whose largest output is at the index of their label.

    Args:
        out: scores or log-probabilities, shape (batch, classes).
        yb: labels, integers of shape (batch,).

    Returns:
        A float32 tensor without dimensions, between 0 and 1.

    >>> import torch
    >>> accuracy(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1]))
    tensor(0.5000)
    """
    return (out.argmax(dim=1) == yb).float().mean()


class WholeSet:
    """Metrics over a whole validation set: a mean over batches would be wrong for most.

    The predictions are kept, and a function is called once; a torchmetrics object keeps only what
    it needs, which is less if the predictions are large.
    """

    def __init__(self, metrics: Sequence[Metric], device: torch.device) -> None:
        check_names([metric_name(metric) for metric in metrics])
        self.metrics = metrics
        self.streaming = [metric for metric in metrics if is_streaming(metric)]
        self.outputs: list[Any] = []
        self.targets: list[Any] = []
        for metric in self.streaming:
            metric.reset()  # type: ignore[attr-defined]  # is_streaming has seen it
            if hasattr(metric, "to"):
                metric.to(device)

    def update(self, out: Any, yb: Any) -> None:
        for metric in self.streaming:
            metric.update(out, yb)  # type: ignore[attr-defined]
        if len(self.streaming) < len(self.metrics):
            self.outputs.append(out)
            self.targets.append(yb)

    def compute(self) -> dict[str, float]:
        values: list[tuple[str, float]] = []
        if self.outputs:
            try:
                out, yb = join(self.outputs), join(self.targets)
            except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
                raise ValueError(
                    "a metric that is a function is computed once over the whole set, and the "
                    f"batches could not be joined ({error}); use an object with update and "
                    "compute, as in torchmetrics"
                ) from error
        for metric in self.metrics:
            is_object = is_streaming(metric)
            value = metric.compute() if is_object else metric(out, yb)  # type: ignore[attr-defined]
            values += named(metric_name(metric), value).items()
        check_names([name for name, _ in values])
        return dict(values)


def check_names(names: Sequence[str]) -> None:
    if len({*TAKEN, *names}) < len(TAKEN) + len(names):
        raise ValueError(
            f"metrics must have different names, none of {', '.join(TAKEN)}, got "
            f"{', '.join(names)}; define each function under a name of its own, and put objects "
            "into a MetricCollection, which takes names"
        )


def is_streaming(metric: Any) -> bool:
    return all(hasattr(metric, name) for name in ("reset", "update", "compute"))


def metric_name(metric: Any) -> str:
    return str(getattr(metric, "__name__", type(metric).__name__))


def named(name: str, value: Any) -> dict[str, float]:
    """Return a metric's value or values by name.

    >>> named("f1", torch.tensor(0.5)), named("f1", torch.tensor([0.25, 0.5]))
    ({'f1': 0.5}, {'f1_0': 0.25, 'f1_1': 0.5})
    """
    if isinstance(value, dict):  # a MetricCollection of torchmetrics
        return {key: number for part in value for key, number in named(part, value[part]).items()}
    if hasattr(value, "flatten"):  # a tensor, or an array of NumPy
        value = value.flatten().tolist()
    if not isinstance(value, list | tuple):
        return {name: float(value)}
    if len(value) == 1:
        return named(name, value[0])
    return {k: v for i, part in enumerate(value) for k, v in named(f"{name}_{i}", part).items()}

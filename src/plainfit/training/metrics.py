"""Metrics: plain functions `(pred, yb) -> tensor`, or torchmetrics objects."""

import copy
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from plainfit.common.errors import ConfigError, raised_as
from plainfit.data.batches import called, join, tensors_in
from plainfit.training.history import kept, weighted_mean
from plainfit.training.hooks import warn

MANY_BYTES = 2**30  # of predictions that a metric keeps, from which on a warning says so
TAKEN = ("loss", "epoch", "train_loss", "valid_loss", "seconds", "samples_per_second")
Sums = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Metric = Callable[[Any, Any], Any]
"""A function, or an object with `reset`, `update(pred, yb)` and `compute`."""


def accuracy(out: Tensor, yb: Tensor) -> Tensor:
    """Return the share of labels at whose index the scores are largest; -100 does not count.

    Args:
        out: scores or log-probabilities, shape (batch, classes), (batch, classes, ...) as for
            `F.cross_entropy`, or (batch, ..., classes).
        yb: labels, integers of the same shape without the classes.

    Returns:
        A float32 tensor without dimensions, between 0 and 1.

    >>> import torch
    >>> accuracy(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1]))
    tensor(0.5000)
    """
    hits, count = correct(out, yb)
    return hits / count


def correct(out: Tensor, yb: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many labels have the largest score at their index, and how many count."""
    hits = out.argmax(dim=1 if out.shape[2:] == yb.shape[1:] else -1) == yb
    if hits.shape != yb.shape:
        raise ValueError(f"labels need a score for each class, got {out.shape} for {yb.shape}")
    return hits.sum(), (yb != -100).sum()  # no index is -100, so such a label is no hit


def mae(out: Tensor, yb: Tensor, scale: float = 1.0) -> Tensor:
    """Return the mean of |out - yb|, times `scale`: the standard deviation of standardised `yb`."""
    return (out - yb).abs().mean() * scale


def rmse(out: Tensor, yb: Tensor, scale: float = 1.0) -> Tensor:
    """Return the root of the mean of (out - yb)**2, times `scale`."""
    return (out - yb).square().mean().sqrt() * scale


def r2(out: Tensor, yb: Tensor) -> Tensor:
    """Return the mean over the targets of 1 - sum (out - yb)**2 / sum (yb - mean)**2.

    Args:
        out, yb: predictions and targets, shape (samples, targets).
    """
    spread = (yb - yb.mean(0)).square().sum(0)
    return (1 - (out - yb).square().sum(0) / spread).mean()


def subset_accuracy(out: Tensor, yb: Tensor) -> Tensor:
    """Return the share of samples whose labels are all right.

    Args:
        out, yb: logits, and labels 0 or 1, shape (samples, labels).
    """
    return ((out > 0) == (yb > 0)).all(1).float().mean()


def f1(out: Tensor, yb: Tensor) -> Tensor:
    """Return the mean over the labels of 2 hits / (predicted + present); 0 for 0 of 0.

    Args:
        out, yb: as for `subset_accuracy`.
    """
    predicted, present = out > 0, yb > 0
    hits, total = (predicted & present).sum(0), predicted.sum(0) + present.sum(0)
    return (2 * hits / total.clamp(min=1)).mean()


def class_dim(out: Tensor, yb: Tensor) -> int:
    fitting = [d for d in {1, out.dim() - 1} if out.shape[:d] + out.shape[d + 1 :] == yb.shape]
    if len(fitting) != 1:
        many = "and not in both" if fitting else "and are in neither ('binary_accuracy' has none)"
        raise ValueError(f"the classes must be in the second or the last dimension, {many}")
    return fitting[0]


def fitting(name: str, out: Any, yb: Any) -> AbstractContextManager[None]:
    """Raise errors of a built-in metric as one that says what to pass instead."""
    kinds = [tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__ for x in (out, yb)]
    instead = "pass a function, or an object of torchmetrics"
    what = f"outputs of {kinds[0]} and targets of {kinds[1]} must fit the metric {name!r}"
    return raised_as(ConfigError, f"{what} (otherwise {instead})")


class Mean:
    """A metric of a mean over all labels: `sums` gives its two sums for a batch."""

    def __init__(self, name: str, sums: Sums, finish: Callable[[Any], Any] = float) -> None:
        self.__name__ = name
        self.sums = sums
        self.finish = finish

    def reset(self) -> None:
        self.total: Any = 0
        self.count: Any = 0

    def update(self, out: Any, yb: Any) -> None:
        self.add(*self.sums_of(out, yb))

    def sums_of(self, out: Any, yb: Any) -> tuple[Tensor, Tensor]:
        with fitting(self.__name__, out, yb):
            class_dim(out, yb)
            return self.sums(out, yb)

    def add(self, total: Any, count: Any) -> None:
        self.total, self.count = self.total + kept(total), self.count + kept(count)

    def compute(self) -> Any:
        return self.finish(torch.as_tensor(self.total) / torch.as_tensor(self.count))


class Overlap:
    """The mean over classes of how far predictions and labels overlap, called `iou` or `dice`.

    It is that of all labels of a set; -100 does not count, nor does a class without any.
    """

    higher_is_better = True

    def __init__(self, name: str) -> None:
        self.__name__ = name

    def reset(self) -> None:
        self.counts: Any = 0

    def update(self, out: Any, yb: Any) -> None:
        with fitting(self.__name__, out, yb):
            dim = class_dim(out, yb)
            known, classes = yb != -100, out.shape[dim]
            pairs = yb[known] * classes + out.argmax(dim)[known]
            self.counts = self.counts + pairs.bincount(minlength=classes**2).view(classes, -1)

    def of_classes(self) -> Tensor:
        hits, sizes = self.counts.diag().double(), self.counts.sum(0) + self.counts.sum(1)
        shares: Tensor = hits / (sizes - hits) if self.__name__ == "iou" else 2 * hits / sizes
        return shares

    def compute(self) -> float:
        return float(self.of_classes().nanmean())


class LossWeights(TorchFunctionMode):
    """By what the loss of each batch counts in the loss of a set, seen while it is computed.

    The mean of `F.cross_entropy` and `F.nll_loss` is over the labels that are not ignored, by the
    weights of their classes, and so is that over the set. A sum over a batch is one over the set.
    Every other loss, and one of several such means, counts by the samples.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []  # of the batches
        self.weights: list[Any] = []  # of their losses
        self.means: list[Tensor] = []  # the weight of each mean in the current loss
        self.sum: Any = None
        self.is_sum = False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        result, reduction = func(*args, **kwargs), kwargs.get("reduction")
        if reduction == "mean" and func in (F.cross_entropy, F.nll_loss):
            self.means.append(labels_weight(*args, **kwargs))
        elif reduction == "sum":
            self.sum = result
        return result

    def weight(self, loss: Any, size: int) -> Any:
        """Return the weight of this loss, which was just computed, of a batch of this size."""
        self.is_sum |= loss is self.sum
        agree = all(torch.equal(self.means[0], mean) for mean in self.means[1:])
        weight = self.means[0] if self.means and agree else size
        self.means, self.sum = [], None
        return weight

    def add(self, loss: Any, size: int) -> None:
        """Keep the weight of this loss, as `weight` returns it."""
        self.weights.append(kept(self.weight(loss, size)))
        self.sizes.append(size)

    def of_set(self, losses: Sequence[float]) -> tuple[float, bool]:
        """Return the loss of the set, and whether that is the mean over the samples."""
        if self.is_sum:
            return sum(losses), False
        weights, sizes = [float(weight) for weight in self.weights], self.sizes
        pairs = zip(weights, sizes, strict=True)
        if all(weight * sizes[0] == weights[0] * size for weight, size in pairs):
            return weighted_mean(losses, sizes), True
        return weighted_mean(losses, weights), False


def labels_weight(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    **others: Any,
) -> Tensor:
    """Return what `F.cross_entropy` or `F.nll_loss` divides by for its mean."""
    if target.is_floating_point():  # probabilities of classes
        return torch.tensor(target.numel() / input.shape[min(1, input.dim() - 1)])
    counted = target != ignore_index
    return (counted if weight is None else weight[target * counted] * counted).sum()


def lacks_labels(model: nn.Module, loss_func: Any, xb: Any, yb: Any) -> bool:
    """Return whether the loss ignores all labels of a batch: it is 0 / 0 then, its gradients 0."""
    watch = LossWeights()
    with suppress(Exception), torch.no_grad(), torch.random.fork_rng(devices=[]):
        out = called(copy.deepcopy(model), xb)  # a copy, as batch norm counts what it sees
        with watch:
            loss_func(out, yb)
    return bool(watch.means) and not any(map(float, watch.means))


class WholeSet:
    """Metrics over a whole validation set: a mean over batches would be wrong for most.

    The predictions are kept, and a function is called once; `accuracy` and objects keep only what
    they need, which is less if the predictions are large.
    """

    def __init__(self, metrics: Sequence[Metric], device: torch.device) -> None:
        self.metrics: list[Any] = [
            Mean("accuracy", correct) if m is accuracy else m for m in metrics
        ]
        self.streaming = [metric for metric in self.metrics if is_streaming(metric)]
        self.kept_bytes = 0
        self.outputs: list[Any] = []
        self.targets: list[Any] = []
        for metric in self.streaming:
            metric.reset()
            if hasattr(metric, "to"):
                metric.to(device)

    def update(self, out: Any, yb: Any) -> None:
        for metric in self.streaming:
            metric.update(out, yb)
        if len(self.streaming) < len(self.metrics):
            self.outputs.append(out)
            self.targets.append(yb)
            before, self.kept_bytes = self.kept_bytes, self.kept_bytes + bytes_of((out, yb))
            if before < MANY_BYTES <= self.kept_bytes:
                names = [metric_name(m) for m in self.metrics if not is_streaming(m)]
                warn(
                    f"metrics that are functions keep all predictions, {MANY_BYTES:,} bytes so far "
                    f"for {', '.join(names)}; names, such as 'accuracy', and objects with update "
                    "and compute take each batch by itself"
                )

    @property
    def are_tensors(self) -> bool:
        return all(isinstance(v, Tensor) and v.dim() for v in (*self.outputs, *self.targets))

    def compute(self, sizes: Sequence[int]) -> dict[str, float]:
        values: list[tuple[str, float]] = []
        if self.outputs:
            try:
                out, yb = join(self.outputs, sizes), join(self.targets, sizes)
            except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
                raise ValueError(
                    "a metric that is a function is computed once over the whole set, and the "
                    f"batches could not be joined ({error}); use an object with update and "
                    "compute, as in torchmetrics"
                ) from error
        for metric in self.metrics:
            is_object = is_streaming(metric)
            value = metric.compute() if is_object else metric(out, yb)
            name = metric_name(metric)
            with raised_as(ConfigError, f"the metric {name!r} must return numbers"):
                values += named(name, value).items()
        check_names([name for name, _ in values])
        return dict(values)


def bytes_of(batch: Any) -> int:
    return sum(tensor.nbytes for tensor in tensors_in(batch))


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
    metric = metric.func if isinstance(metric, partial) else metric
    return str(getattr(metric, "__name__", type(metric).__name__))


def declared_modes(metrics: Iterable[Metric]) -> dict[str, str]:
    found = {metric_name(m): getattr(m, "higher_is_better", None) for m in metrics}
    return {n: "max" if better else "min" for n, better in found.items() if better is not None}


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

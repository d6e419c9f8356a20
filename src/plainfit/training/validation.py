"""A model's loss and metrics over a set."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from plainfit.common.devices import device_of
from plainfit.data.batches import Batches, Size, batch_size, called, pairs
from plainfit.training.history import kept, read, weighted_mean
from plainfit.training.hooks import Context, LossFunction
from plainfit.training.metrics import LossWeights, Metric, WholeSet
from plainfit.training.named_metrics import made
from plainfit.training.state import untouched
from plainfit.training.step import loss_and_values, own_loss


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Put every part of some models in `eval()` mode, and back in its own at the end."""
    before = [(module, module.training) for model in models for module in model.modules()]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


def validate(
    model: nn.Module,
    loss_func: LossFunction | None,
    valid_dl: Batches,
    *,
    metrics: Sequence[Metric | str] = (),
    target: str | None = None,
    batch_size: Size = batch_size,
    context: Context | None = None,
) -> dict[str, float]:
    """Return the mean loss (`loss`), its values and the metrics by name, over a loader's samples.

    The loss is what `loss_func` gives over the whole set, up to rounding: the mean of the batches'
    losses, each counting by its samples; for `F.cross_entropy` and `F.nll_loss`, by the class
    weights of the labels that are not ignored. If `loss_func` returns the result of a loss of torch
    with `reduction="sum"`, it is their sum; a sum of your own counts as a mean would. Each metric
    is computed once over the whole set. Meanwhile the model is in `eval()` mode, and no gradients
    are kept. The generators and the loader are left as they were; but in `fit`, a loader of torch
    draws from the global generator, as it does in a loop by hand.

    Args:
        model: any module.
        loss_func: `(model(xb), yb) -> mean loss`; None as for `loss_batch`.
        valid_dl: as for `fit`.
        metrics: as for `fit`, where a function keeps all predictions in memory.
        target: as for `fit`.
        batch_size: as for `fit`.
        context: of a training; once it is to stop, the validation ends with an empty result.

    Raises:
        ValueError: if the loader is empty, or two metrics have the same name.
    """
    batches = Evaluation(model, loss_func or own_loss, metrics)
    kept_as_is = untouched(valid_dl) if context is None else nullcontext()
    with torch.no_grad(), evaluating(*batches.modules()), kept_as_is:
        if context is not None and context.valid_program is not None:
            context.valid_program.run(context, batches, valid_dl)
        for xb, yb in pairs(valid_dl, device_of(model), target):
            if context is not None and context.stop:
                return {}
            out = model(xb) if isinstance(xb, Tensor) else called(model, xb)
            batches.add(out, yb, batch_size(xb, yb))
            del xb, yb, out
        if not batches.losses:
            raise ValueError(f"a validation loader must give batches, got none from {valid_dl!r}")
        loss, counts_samples = batches.watch.of_set(read(batches.losses))
        if context is not None and context.history.run is not None:
            context.history.run.counts_samples &= counts_samples
            context.history.run.joins_tensors &= batches.whole.are_tensors
        sizes = batches.watch.sizes
        means = {name: weighted_mean(read(each), sizes) for name, each in batches.beside.items()}
        return {"loss": loss, **means, **batches.whole.compute(sizes)}


class Evaluation:
    """What a validation computes of each batch."""

    def __init__(self, model: nn.Module, loss_func: Any, metrics: Sequence[Metric | str]) -> None:
        self.model, self.loss_func = model, loss_func
        self.whole = WholeSet(made(metrics), device_of(model))
        self.watch = LossWeights()
        self.losses: list[Any] = []
        self.beside: dict[str, list[Any]] = {}

    def modules(self) -> list[nn.Module]:
        return [part for part in (self.model, self.loss_func) if isinstance(part, nn.Module)]

    def loss_of(self, out: Any, yb: Any) -> tuple[Any, dict[str, Any]]:
        """Return the loss of a batch, and the values beside it."""
        with self.watch:
            loss = self.loss_func(out, yb)
        return loss_and_values(loss)

    def add(self, out: Any, yb: Any, size: int) -> None:
        """Keep what the figures of the set need of a batch."""
        loss, values = self.loss_of(out, yb)
        for name, value in values.items():
            self.beside.setdefault(name, []).append(kept(value))
        self.watch.add(loss, size)
        self.losses.append(kept(loss))
        self.whole.update(out, yb)

    def put(self, batches: Sequence[Sequence[float]], size: int, is_sum: bool) -> None:
        """Keep what a program gives of batches: loss, weight, and the sums of each metric."""
        for loss, weight, *sums in batches:
            self.losses.append(loss)
            self.watch.weights.append(weight)
            self.watch.sizes.append(size)
            for at, metric in enumerate(self.whole.metrics):
                metric.add(*sums[2 * at : 2 * at + 2])
        self.watch.is_sum |= is_sum

"""A model's loss and metrics over a set."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from plainfit.common.devices import device_of
from plainfit.data.batches import Batches, Size, batch_size, called
from plainfit.training.history import kept, read, weighted_mean
from plainfit.training.hooks import Context, LossFunction
from plainfit.training.metrics import LossWeights, Metric, WholeSet
from plainfit.training.named_metrics import made
from plainfit.training.processes import Processes
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

    The loss is that of the whole set, up to rounding: the mean of the batches' losses, each
    counting by its samples; for `F.cross_entropy` and `F.nll_loss`, by the class weights of the
    labels that are not ignored; their sum, for a loss of torch with `reduction="sum"`. Meanwhile
    the model is in `eval()` mode, and no gradients are kept. The generators and the loader are left
    as they were; but in `fit`, a loader of torch draws from the global generator, as by hand.

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
    device = device_of(model)
    shared = None if context is None else context.sharding
    # Where each process has parts of the model, all compute every batch.
    processes = Processes() if shared is None or shared.has_parts else shared.processes
    whole = WholeSet(made(metrics), device)
    loss_func = loss_func or own_loss
    watch, losses = LossWeights(), list[Any]()
    beside: dict[str, list[Any]] = {}
    kept_as_is = untouched(valid_dl) if context is None else nullcontext()
    modules = [part for part in (model, loss_func) if isinstance(part, nn.Module)]
    with torch.no_grad(), evaluating(*modules), kept_as_is:
        if context is not None and context.valid_program is not None:
            losses += context.valid_program.run(context, valid_dl, whole, watch)
        for pair in processes.own(valid_dl, device, target):
            item = None
            if pair is not None:
                xb, yb = pair
                out = model(xb) if isinstance(xb, Tensor) else called(model, xb)
                item = out, yb, batch_size(xb, yb)
                del pair, xb, yb, out
            items = processes.of_all(item, device)
            del item
            while items:
                out, yb, size = items.pop(0)
                if context is not None and context.stop:
                    return {}
                with watch:
                    loss = loss_func(out, yb)
                if not isinstance(loss, Tensor):
                    loss, values = loss_and_values(loss)
                    for name, value in values.items():
                        beside.setdefault(name, []).append(kept(value))
                watch.add(loss, size)
                losses.append(kept(loss))
                whole.update(out, yb)
                del out, yb, loss
        if not losses:
            raise ValueError(f"a validation loader must give batches, got none from {valid_dl!r}")
        value, counts_samples = watch.of_set(read(losses))
        if context is not None and context.history.run is not None:
            context.history.run.counts_samples &= counts_samples
            context.history.run.joins_tensors &= whole.are_tensors
        means = {name: weighted_mean(read(each), watch.sizes) for name, each in beside.items()}
        with alone(whole.streaming if processes.world > 1 else ()):
            return {"loss": value, **means, **whole.compute(watch.sizes)}


@contextmanager
def alone(metrics: Sequence[Any]) -> Iterator[None]:
    """Let objects of torchmetrics add no states of other processes: each has seen all batches."""
    parts = [part for metric in metrics for part in getattr(metric, "modules", list)()]
    asks = {p: p.distributed_available_fn for p in parts if hasattr(p, "distributed_available_fn")}
    for part in asks:
        part.distributed_available_fn = None
    try:
        yield
    finally:
        for part, ask in asks.items():
            part.distributed_available_fn = ask

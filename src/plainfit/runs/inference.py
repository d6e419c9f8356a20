"""After the training: what a model gives for data of any kind, and how good that is."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import RandomSampler, SubsetRandomSampler, WeightedRandomSampler

from plainfit.common.devices import device_of
from plainfit.common.errors import ConfigError, DataError, ModelError, raised_as, unknown_name
from plainfit.data.batches import (
    Size,
    batch_size,
    called,
    join,
    order_of,
    pairs,
    sizes,
    tensors_in,
    to_device,
)
from plainfit.data.datasets import as_dataset, is_table
from plainfit.data.loaders import make_loader
from plainfit.data.targets import CLASSIFICATION, MULTI_LABEL, REGRESSION
from plainfit.runs.folder import Run
from plainfit.runs.inputs import as_trained
from plainfit.runs.tasks import loss_function, metrics_of
from plainfit.training.hooks import LossFunction, warn
from plainfit.training.metrics import Metric
from plainfit.training.state import untouched
from plainfit.training.validation import evaluating, validate

BATCH = 128  # samples, for a model that is no run's
CPU = torch.device("cpu")
RANDOM = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)


def predict(
    model: nn.Module | Run,
    data: Any,
    *,
    output: str | Callable[[Any], Any] = "raw",
    bs: int | None = None,
    target: str | None = None,
) -> Any:
    """Return what a model gives for each sample, in the order of the data.

    Meanwhile the model is in `eval()` mode, on the device where it is, and no gradients are kept.
    The generators and the loader are left as they were.

    Args:
        model: any module, or a run from `load_run`.
        data: a tensor, an array or a data frame of inputs, or a mapping of them, for a model that
            takes several by name; a dataset; or batches as `fit` takes them. A tuple, as sample, as
            batch or of arrays, is `(inputs..., target)`: its target is left out. For a run, arrays,
            data frames, bytes and paths, of a table, of images or of a folder (in the order of its
            paths), are made into inputs as in the training. All else holds what the model takes.
        output: `raw` for what the model returns, `probabilities` for the softmax of scores of shape
            (samples, classes), or with height and width for each pixel, unless they are
            probabilities already, `classes` for the index of the largest; or a function of what the
            model returns for a batch, such as `torch.sigmoid`. A run of several labels has the
            sigmoid as `probabilities`, and 0 or 1 as `classes`; of a regression, `raw` is in the
            units of the target.
        bs: samples in a batch, where the data are not batches; 128 by default, or as in the run's
            validation.
        target: the key of the targets in batches that are mappings, which are left out.

    Returns:
        A tensor on the CPU, with the samples as its first dimension; or a tuple, list or dict of
        such tensors if the model returns that.

    Raises:
        ConfigError: if `output` is unknown.
        DataError: if the data cannot be used.
        ModelError: if the outputs are not what `output` needs, or not one for each sample.

    >>> predict(nn.Linear(4, 3), torch.zeros(5, 4), output="classes").shape
    torch.Size([5])
    """
    known = OUTPUTS if isinstance(model, nn.Module) else outputs_of(model)
    chosen = output if callable(output) else known.get(str(output))
    if chosen is None:
        raise ConfigError(unknown_name("output", str(output), [*known, "a function"]))
    net, batches = parts(model, data, bs)
    if is_shuffled(batches):
        warn("the loader shuffles, and so the predictions are not in the order of its dataset")
    found, counts = list[Any](), list[int]()
    with torch.no_grad(), evaluating(net), untouched(batches):
        for xb, _ in pairs(batches, device_of(net), target):
            out, count = joinable(chosen(called(net, xb)))
            found.append(out)
            counts.append(count)
            while len(counts) > 1 and counts[-1] >= counts[-2]:  # many small blocks: see `kept`
                join_last(2, found, counts)
    if not found:
        raise DataError(f"there must be batches to predict, got none from a {type(data).__name__}")
    join_last(len(found), found, counts)
    return found[0]


def evaluate(
    model: nn.Module | Run,
    data: Any = None,
    loss_func: LossFunction | None = None,
    *,
    metrics: Sequence[Metric] = (),
    bs: int | None = None,
    target: str | None = None,
    batch_size: Size = batch_size,
) -> dict[str, float]:
    """Return the loss (`loss`) and the metrics (by name) of a model over data with targets.

    They are those of `validate`, for data of any kind. The generators and the loader are left as
    they were.

    Args:
        model: any module, or a run from `load_run`.
        data: as for `predict`, with targets: `(X, y)` for arrays or tensors; for a run, a table
            with its target column, or a folder of images with one folder for each class. By default
            the run's own test set, or its validation set if it has none.
        loss_func: as for `fit`; by default that of the run.
        metrics: as for `fit`; by default those of its training for a run.
        bs: as for `predict`.
        target: as for `fit`.
        batch_size: as for `fit`.

    Raises:
        ConfigError, DataError: if the data cannot be used, or there is none.
    """
    if isinstance(model, Run):
        metrics = metrics or metrics_of(model.config, model.target)
        if data is None:
            own = model.open_data()
            data = own.test or own.valid
    elif data is None:
        raise ConfigError("must be given for a model; a run from load_run has its own", "data")
    net, batches = parts(model, data, bs, labelled=True)
    if isinstance(model, Run):
        loss_func = loss_func or loss_function(model.config, model.target, device_of(net))
    return validate(net, loss_func, batches, metrics=metrics, target=target, batch_size=batch_size)


def joinable(out: Any) -> tuple[Any, int]:
    lengths = sizes(out) | {0 for tensor in tensors_in(out) if not tensor.dim()}
    if len(lengths) != 1:
        raise ModelError(
            "what a model gives must have one entry for each sample, got a "
            f"{type(out).__name__} with parts of lengths {sorted(lengths)}; choose a part with a "
            "function, such as output=lambda out: out[0]"
        )
    count = lengths.pop()
    return to_device(join([out], [count]), CPU), count  # a view would keep the whole


def join_last(n: int, found: list[Any], counts: list[int]) -> None:
    with raised_as(ModelError, "samples must give one shape; output=list keeps others apart"):
        found[-n:], counts[-n:] = [join(found[-n:], counts[-n:])], [sum(counts[-n:])]


def parts(
    model: nn.Module | Run, data: Any, bs: int | None, *, labelled: bool = False
) -> tuple[nn.Module, Any]:
    if isinstance(model, Run):
        bs = 2 * model.config.batch_size if bs is None else bs
        data = as_trained(model, data, bs, labelled)
        model = model.model
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"must be a module, or a run from plainfit.load_run, got {model!r}", field="model"
        )
    can_be_indexed = hasattr(data, "__getitem__") and not isinstance(data, list)
    if callable(data) or (hasattr(data, "__iter__") and not can_be_indexed):
        return model, data
    dataset = as_dataset((data,) if is_table(data) else data, "data")
    return model, make_loader(dataset, BATCH if bs is None else bs, False)


def probabilities(out: Any) -> Tensor:
    scores = scores_of(out)
    are_already = bool((scores >= 0).all()) and torch.allclose(
        scores.sum(dim=1), torch.ones_like(scores[:, 0]), atol=1e-4
    )
    return scores if are_already else scores.softmax(dim=1)


def classes(out: Any) -> Tensor:
    return scores_of(out).argmax(dim=1)


def scores_of(out: Any) -> Tensor:
    scores = getattr(out, "logits", out)  # of a model of transformers
    if not isinstance(scores, Tensor) or scores.dim() not in (2, 4) or scores.shape[1] < 2:
        got = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise ModelError(
            "for probabilities and classes, a model must give scores of shape (samples, classes), "
            f"or with height and width too, with two classes or more, got {got}; pass a function "
            "of what it gives, such as output=torch.sigmoid"
        )
    return scores


OUTPUTS: dict[str, Callable[[Any], Any]] = {
    "raw": lambda out: out,
    "probabilities": probabilities,
    "classes": classes,
}


def outputs_of(run: Any) -> Mapping[str, Callable[[Any], Any]]:
    task = run.target.task if isinstance(run, Run) else CLASSIFICATION
    if task == REGRESSION:
        return {"raw": run.target.restored}
    if task == MULTI_LABEL:
        return OUTPUTS | {"probabilities": torch.sigmoid, "classes": lambda out: (out > 0).long()}
    return OUTPUTS


def is_shuffled(dl: Any) -> bool:
    order = order_of(dl)
    return getattr(order, "shuffle", False) or isinstance(
        getattr(order, "rows_from", order), RANDOM
    )

"""Transfer learning: a trained body, a new head, and a slower rate for what is known already."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plainfit.common.devices import device_of, pick_device
from plainfit.common.errors import ModelError
from plainfit.data.batches import Batches, length, pairs
from plainfit.models.build import Factory, make_optimizer
from plainfit.models.transfer import find_head, layer_groups, layer_rates, parameter_groups
from plainfit.runs.pretrained import new_model, with_new_head
from plainfit.training.callbacks.optimization import Unfreezing
from plainfit.training.history import History
from plainfit.training.loop import fit
from plainfit.training.schedules import Chain, OneCycle

__all__ = [
    "PhaseCycles",
    "fine_tune",
    "layer_groups",
    "layer_rates",
    "new_head",
    "new_model",
    "parameter_groups",
]


class PhaseCycles(Chain):
    """A one-cycle while the head is trained alone, then one for all: each phase from the start.

    Args:
        steps: of both.
        head: how many train the head alone; 0 or all of them for one cycle.
    """

    def __init__(self, steps: int, head: int) -> None:
        phases = [head, steps - head] if 0 < head < steps else [steps]
        super().__init__(*map(OneCycle, phases))
        self.head = head

    def __repr__(self) -> str:
        return f"PhaseCycles(steps={self.steps}, head={self.head})"


def fine_tune(
    model_or_run: nn.Module | str | Path,
    train_dl: Batches,
    valid_dl: Batches,
    epochs: int,
    *,
    classes: int,
    loss_func: Callable[[Any, Any], Tensor] = F.cross_entropy,
    optimizer: str = "sgd",
    lr: float | None = None,
    freeze_epochs: int = 1,
    gradual: bool = False,
    lr_ratio: float = 100.0,
    seed: int = 0,
    **options: Any,
) -> tuple[nn.Module, History]:
    """Give a trained model a new head and train it: the head alone at first, then all of it.

    It is one call of `fit` with the callback `Unfreezing`, an optimizer with a learning rate for
    each group of layers, and a one-cycle for each phase.

    Args:
        model_or_run: a trained model, which is left as it is, or a source as `new_model` takes it
            that says its architecture itself, such as a run folder.
        train_dl: as `fit` takes it.
        valid_dl: likewise; the layers are found with its first batch.
        epochs: in all.
        classes: the number of the new head's outputs.
        loss_func: as `fit` takes it.
        optimizer: as `get_model` takes it.
        lr: of the head; its default is that of `get_model`.
        freeze_epochs: how many of the epochs train the head alone.
        gradual: thaw one more group of layers in each epoch, instead of all at once.
        lr_ratio: how many times slower the first layers learn than the head.
        seed: of the new head.
        options: more for `fit`, such as `metrics`, `checkpoint`, `resume`, `schedule`.

    Returns:
        The new model and its history.

    Raises:
        ModelError: if the model has no head that can be made anew, or no body.
        PlainfitError: if the source cannot be read.
    """
    xb, _ = next(pairs(valid_dl, torch.device("cpu")))
    if isinstance(model_or_run, nn.Module):
        model = new_head(model_or_run, xb, classes, seed)
    else:
        shape = tuple(xb.shape[1:])
        model = new_model(model_or_run, input_shape=shape, classes=classes, seed=seed)
        model.to(pick_device("auto"))
    groups = layer_groups(model, xb)
    layers = parameter_groups(model, groups, lr_ratio)
    opt = make_optimizer(optimizer, model, lr=lr, layers=layers)
    unfreezing = Unfreezing(groups, freeze_epochs, gradual)
    options["callbacks"] = [unfreezing, *options.get("callbacks", ())]
    steps = length(train_dl)
    if steps is not None:
        options.setdefault("schedule", PhaseCycles(epochs * steps, freeze_epochs * steps))
    return model, fit(epochs, model, loss_func, opt, train_dl, valid_dl, **options)


def new_head(model: nn.Module, xb: Tensor, classes: int, seed: int = 0) -> nn.Module:
    """Return a copy of a model with a new last layer, its initial values drawn after the seed.

    Args:
        model: of which `get_model` knows how it was built, or with a linear layer or a convolution
            as the last one.
        xb: a batch that it takes.
        classes: the number of the new layer's outputs.
        seed: of torch's global generator, as `get_model` seeds it.

    Raises:
        ModelError: if there is no such layer.
    """
    factory = getattr(model, "plainfit_factory", None)
    if isinstance(factory, Factory):
        shape = tuple(xb.shape[1:])
        return with_new_head(factory, model.state_dict(), shape, classes, seed).to(device_of(model))
    head = find_head(model, xb)
    if not head:
        raise ModelError(f"fine-tuning needs layers before the head, and {model} has none")
    copied = copy.deepcopy(model)
    old: Any = copied.get_submodule(head)
    torch.manual_seed(seed)
    bias = old.bias is not None
    if isinstance(old, nn.Linear):
        new: nn.Module = nn.Linear(old.in_features, classes, bias)
    else:
        shape = (old.kernel_size, old.stride, old.padding, old.dilation)
        new = type(old)(old.in_channels, classes, *shape, bias=bias)
    copied.set_submodule(head, new.to(device_of(model)))
    return copied

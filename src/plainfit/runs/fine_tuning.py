"""Transfer learning: a trained body, a new head, and lower rates for the first layers."""

import copy
import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plainfit.common.devices import device_of, pick_device
from plainfit.common.errors import ConfigError, DataError, ModelError, near_miss, shortened
from plainfit.data.batches import Batches, length, pairs
from plainfit.data.splits import OF_IMAGE_FILES, DataSplits, values_text
from plainfit.models.build import (
    Factory,
    arguments_for,
    known_arguments,
    make_optimizer,
    resolve,
    target_name,
)
from plainfit.models.layers import find_head, layer_groups, parameter_groups
from plainfit.models.text import PretrainedText
from plainfit.models.weights import HUB, PUBLISHED, load_body, read_weights, text_model, timm_model
from plainfit.runs.folder import open_run
from plainfit.runs.settings import WEIGHT_FILES, is_weights_only
from plainfit.training.callbacks.optimization import Unfreezing
from plainfit.training.history import History
from plainfit.training.hooks import warn
from plainfit.training.loop import fit
from plainfit.training.schedules import Chain, OneCycle

HUB_NAME = re.compile(HUB + r"[\w.-]+/[\w.-]+")
TIMM = "timm:"


class PhaseCycles(Chain):
    """A one-cycle for the `head` steps that train the head alone, then another for all layers."""

    def __init__(self, steps: int, head: int) -> None:
        phases = [head, steps - head] if 0 < head < steps else [steps]
        super().__init__(*map(OneCycle, phases))
        self.head = head


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

    This is one call of `fit` with the callback `Unfreezing`, an optimizer with a learning rate for
    each group of layers, and a one-cycle for each phase.

    Args:
        model_or_run: a trained model, which is not changed, or a source that names
            its architecture itself: the path of a run folder, `resnet18` (34, 50) or `timm:NAME`.
        train_dl: as for `fit`.
        valid_dl: as for `fit`; its first batch is used to find the layers.
        epochs: in all.
        classes: the number of the new head's outputs.
        loss_func: as for `fit`.
        optimizer: as for `get_model`.
        lr: of the head; by default that of `get_model`.
        freeze_epochs: how many of the epochs train the head alone.
        gradual: unfreeze one more group of layers in each epoch, instead of all at once.
        lr_ratio: how many times slower the first layers learn than the head.
        seed: of the new head.
        options: passed to `fit`, such as `metrics`, `checkpoint`, `resume`, `schedule`.

    Returns:
        The new model and its history.

    Raises:
        ModelError: if the model has no head that can be replaced, or no body.
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
    """Return a copy of a model with a new last layer; seeds the global generator."""
    factory = getattr(model, "plainfit_factory", None)
    if isinstance(factory, Factory):
        weights = model.state_dict()
        return with_new_head(factory, weights, xb[:1], classes, seed).to(device_of(model))
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


def is_run(source: str) -> bool:
    # A run folder with a published name is ./resnet18.
    return source not in PUBLISHED and Path(source).is_dir()


def model_name(source: str, model: str | None, text: str | None = None) -> str:
    is_hub = source.startswith(HUB)
    is_text = is_hub and (text is not None or model == source)
    if is_text and model in (None, source):
        return source
    if is_weights_only(source) and not is_text:
        if model is None:
            otherwise = "; or name the column that a text model reads by --text" * is_hub
            raise ConfigError(
                f"must name the architecture of {source}, such as resnet18, since a file of "
                f"weights does not{otherwise}",
                field="model",
            )
        if HUB_NAME.fullmatch(source) or not is_hub:
            return model
    if not (is_text or is_run(source) or source in PUBLISHED or source.startswith(TIMM)):
        raise ConfigError(
            f"a source must be a run folder, a {', '.join(WEIGHT_FILES)} file or its URL, "
            f"{', '.join(PUBLISHED)}, hf:OWNER/NAME or timm:NAME, got {source!r}"
            f"{near_miss(source, PUBLISHED)}"
        )
    if model is not None:
        raise ConfigError(
            f"is for files of weights, and {source} names its own: leave it out", field="model"
        )
    return open_run(Path(source)).config.model if is_run(source) else source.removeprefix(TIMM)


def check_source(source: str, data: DataSplits) -> None:
    """Refuse data whose values were made in another way than those that a run learned from."""
    if data.vocabulary is not None and not source.startswith(HUB):
        raise ConfigError(
            f"a fine-tuning must be on images or numbers, and {data.name} is text, whose words "
            "have other numbers than those of a source; use plainfit train, or hf:NAME"
        )
    if not is_run(source):
        return
    run, made = open_run(Path(source)), values_text(data.preprocessing, data.features)
    gray, color = map(values_text, OF_IMAGE_FILES)
    run.check_values(
        [made, *([color] if made == gray else [])],  # `load_body` sums over the channels
        f"{data.name} gives a model values {made}",
        "make them in the same way or, if they are alike, pass its model.safetensors, with model",
        data.features,
    )
    learned = run.preprocessing.get("columns", {})
    for name, made in data.columns.items():
        if "embedded" in made and made != learned[name]:  # a code would mean something else
            raise DataError(
                f"column {name!r} must have the categories of {source}, since they are embedded, "
                f"and has others; train a new model"
            )
    if data.columns and data.preprocessing != run.preprocessing:
        warn(f"the columns are standardised by the mean and std of {data.name}, not of {source}")


def new_model(
    source: str | Path,
    model: str | None = None,
    arguments: dict[str, Any] | None = None,
    *,
    input_shape: Sequence[int],
    classes: int,
    seed: int = 0,
) -> nn.Module:
    """Return a model with a source's body and a new head, on the CPU.

    The source is a run folder; a file of weights, or the URL of one whose name ends with the
    beginning of its SHA-256; `resnet18`, `resnet34`, `resnet50`; `timm:NAME`; or `hf:OWNER/NAME`,
    whose `model.safetensors` is downloaded. A file, a URL and `hf:` need `model`, the architecture;
    where it is the source itself, that is a text model of transformers.
    """
    source = str(source)
    name = model_name(source, model)
    xb = torch.zeros(1, *input_shape)
    if is_run(source):
        run = open_run(Path(source))
        factory, weights = run.factory, run.model.state_dict()
    elif source.startswith(TIMM):
        if arguments:
            raise ConfigError("is not for models of timm: leave it out", field="model_args")
        factory = Factory(target_name(timm_model), {"name": name, "channels": 3}, seed)
        weights = timm_model(name, classes=None, pretrained=True).state_dict()
    elif name == source and source.startswith(HUB):
        torch.manual_seed(seed)
        config, weights, new = text_model(source, arguments or {})
        if new:
            warn(f"{source} has no weights for {shortened(new)}: they begin anew")
        factory, xb = Factory(target_name(PretrainedText), {"config": config}, seed), xb.long()
    else:
        target = resolve(name)
        factory = Factory(target_name(target), known_arguments(target, arguments or {}), seed)
        weights = read_weights(source)
    return with_new_head(factory, weights, xb, classes, seed)


def with_new_head(
    factory: Factory, weights: dict[str, Tensor], xb: Tensor, classes: int, seed: int
) -> nn.Module:
    target = resolve(factory.target)
    if "classes" not in inspect.signature(target).parameters:
        raise ModelError(
            f"{factory.target} must have a parameter `classes`, which makes the new head; add it, "
            "or give plainfit.fine_tune the built model"
        )
    found = arguments_for(target, tuple(xb.shape[1:]), classes)
    factory = replace(factory, arguments=factory.arguments | found, seed=seed, loaded=True)
    model = factory.call(target)
    load_body(model, weights, find_head(model, xb, classes))
    model.plainfit_factory = factory  # type: ignore[assignment]  # as get_model leaves it
    return model

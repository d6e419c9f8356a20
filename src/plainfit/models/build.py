"""Building models and optimizers from names, with a record of how, to repeat it."""

import importlib
import inspect
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import nn, optim

from plainfit.common.devices import pick_device
from plainfit.common.errors import ConfigError, ModelError, near_miss, raised_as, unknown_name
from plainfit.common.schema import AMOUNT, COUNT, SHARE, UP_TO_AMOUNT, check_values
from plainfit.models import networks, text

MODELS: dict[str, Callable[..., nn.Module]] = {
    "logistic": networks.LogisticRegression,
    "mlp": networks.MLP,
    "tabular": networks.TabularModel,
    "cnn": networks.MnistCNN,
    "compact": networks.CompactCNN,
    "resnet": networks.ResNet,
    "resnet18": networks.resnet18,
    "resnet34": networks.resnet34,
    "resnet50": networks.resnet50,
    "unet": networks.UNet,
    "bag": text.BagOfWords,
    "transformer": text.Transformer,
}
OF_TEXT = (text.BagOfWords, text.Transformer)
# Modules of runs that an older plainfit wrote, and where their content is now.
MOVED = {
    "plainfit.models": "plainfit.models.networks",
    "plainfit.imagenet": "plainfit.models.networks",
    "plainfit.models.resnet": "plainfit.models.networks",
    "plainfit.transfer.sources": "plainfit.models.weights",
}
# Usual starting points: the tutorial's rate for SGD with momentum on images, and the default of
# Adam (Kingma & Ba 2014, arXiv:1412.6980, algorithm 1) for the adaptive ones; else torch's own.
OPTIMIZERS: dict[Any, Any] = {"sgd": 0.1, "adam": 1e-3, "adamw": 1e-3, "rmsprop": 1e-3}
NUMBERS = {
    "classes": Annotated[int, COUNT],
    "input_shape": list[Annotated[int, COUNT]],
    "lr": Annotated[float | None, AMOUNT],
    "momentum": Annotated[float | None, SHARE],
    "weight_decay": Annotated[float | None, UP_TO_AMOUNT],
}


@dataclass(frozen=True)
class Factory:
    """How a model was built: the callable, its arguments, and the seed set before the call."""

    target: str
    """`module:name` of a class or function that returns a module."""
    arguments: dict[str, Any]
    seed: int
    loaded: bool = False
    """Whether weights were loaded after that, so that the seed does not give the initial values."""

    def build(self) -> nn.Module:
        """Seed the global generator and call the target: equal factories give equal models."""
        return self.call(resolve(self.target))

    def build_quietly(self) -> nn.Module:
        """Build, and leave the global generator as it was, to load weights afterwards."""
        with torch.random.fork_rng(devices=[]):
            return self.build()

    def call(self, target: Callable[..., Any]) -> nn.Module:
        torch.manual_seed(self.seed)
        try:
            with current_folder_on_path():
                model = target(**self.arguments)
        except (Exception, SystemExit) as error:
            given = ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())
            raise ModelError(
                f"{self.target}({given}) must return a model, and failed with "
                f"{type(error).__name__}: {error}"
            ) from error
        if not isinstance(model, nn.Module):
            raise ModelError(
                f"{self.target} must return a torch.nn.Module, got {type(model).__name__}"
            )
        return model


def get_model(
    model: str | Callable[..., nn.Module] = "cnn",
    *,
    optimizer: str | type[optim.Optimizer] = "sgd",
    lr: float | None = None,
    momentum: float | None = None,
    input_shape: Sequence[int] = (1, 28, 28),
    classes: int = 10,
    vocabulary: int | None = None,
    seed: int = 0,
    device: str = "auto",
    fused: bool = False,
    channels_last: bool = False,
    weight_decay: float | None = None,
    nesterov: bool = False,
    arguments: Mapping[str, Any] | None = None,
    optimizer_args: Mapping[str, Any] | None = None,
) -> tuple[nn.Module, optim.Optimizer]:
    """Build a model and its optimizer.

    Args:
        model: `logistic`, `mlp`, `tabular`, `cnn`, `compact`, `resnet`, `resnet18` (34, 50),
            `unet`; of text `bag` and `transformer`; `MODULE:CALLABLE`, or a class or function that
            returns a module. It is called with those of `input_shape`, `in_features`, `channels`,
            `classes` and `vocabulary` that it names among its parameters.
        optimizer: `sgd`, `adam`, `adamw`, `rmsprop`, or another class of `torch.optim` or its name.
        lr: the learning rate; by default 0.1 for `sgd`, 0.001 for the other three, else torch's.
        momentum: for optimizers that have it; 0.9 by default for `sgd`, else 0.
        input_shape: of one sample: (channels, height, width), or (features,).
        classes: the number of outputs.
        vocabulary: of text, how many numbers a word can have.
        seed: the global generator is seeded with it before the model is built.
        device: where the model goes once built on the CPU; `auto` is the accelerator, if any.
        fused: use an optimizer that updates all parameters in one kernel; it changes the bits.
        channels_last: keep images as (height, width, channels) in memory, which makes convolutions
            faster on many machines; it changes the bits.
        weight_decay: of the parameters with two or more dimensions, not of biases and norms. By
            default torch's: 0.01 of all for `adamw`, else 0.
        nesterov: use Nesterov momentum (Sutskever et al. 2013), for `sgd`.
        arguments: for the model, by name; they override those above.
        optimizer_args: other arguments of the optimizer, by name.

    Returns:
        The model, which keeps the record of its construction as `plainfit_factory`, and the
        optimizer.

    Raises:
        ConfigError: if a name is unknown, a number out of range, or a setting does not apply.
        ModelError: if the model cannot be built.

    >>> model, opt = get_model("mlp", input_shape=(1, 8, 8), lr=0.1)
    >>> model(torch.zeros(2, 1, 8, 8)).shape, type(opt).__name__
    (torch.Size([2, 10]), 'SGD')
    """
    if isinstance(model, nn.Module):
        raise ModelError(
            "get_model builds a model from a name, a class or a function, got a built "
            f"{type(model).__name__}; make its optimizer with torch.optim"
        )
    target = resolve(model) if isinstance(model, str) else model
    input_shape = list(input_shape) if isinstance(input_shape, Sequence) else input_shape
    check_values({"classes": classes, "input_shape": input_shape}, NUMBERS)
    factory = Factory(
        target_name(target),
        arguments_for(target, input_shape, classes, vocabulary)
        | known_arguments(target, arguments or {}),
        seed,
    )
    built = to_device(factory.call(target), device, channels_last)
    built.plainfit_factory = factory  # type: ignore[assignment]  # a record beside the module's own parts
    options: dict[str, Any] = {"fused": fused, "weight_decay": weight_decay, "nesterov": nesterov}
    options |= {"lr": lr, "momentum": momentum, "optimizer_args": optimizer_args}
    return built, make_optimizer(optimizer, built, **options)


def target_name(target: Any) -> str:
    """
    >>> target_name(nn.Linear)
    'torch.nn.modules.linear:Linear'
    """
    return f"{getattr(target, '__module__', '?')}:{getattr(target, '__qualname__', repr(target))}"


def to_device(model: nn.Module, device: str, channels_last: bool) -> nn.Module:
    model.to(pick_device(device))
    if channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # its stub lacks it
    return model


def resolve(name: str) -> Callable[..., Any]:
    if name in MODELS:
        return MODELS[name]
    module_name, colon, path = name.partition(":")
    if not colon:
        raise ConfigError(unknown_name("model", name, [*MODELS, "MODULE:CALLABLE"]))
    module_name = MOVED.get(module_name, module_name)
    try:
        with current_folder_on_path():
            found: Any = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # whatever the user's file raises is shown in one line
        raise ModelError(
            f"the module {module_name!r} must import, and failed with {type(error).__name__}: "
            f"{error}; give a module as Python imports it: nets.small:Net for nets/small.py"
        ) from error
    for part in path.split("."):
        if not hasattr(found, part):
            raise ModelError(f"{module_name} has no {path!r}{near_miss(part, dir(found))}")
        found = getattr(found, part)
    if isinstance(found, nn.Module) or not callable(found):
        raise ModelError(
            f"{name} must be a class or function that returns a model, got a "
            f"{type(found).__name__}; wrap it in a function"
        )
    target: Callable[..., Any] = found
    return target


@contextmanager
def current_folder_on_path() -> Iterator[None]:
    """Let the user's modules import from the current folder, as `python` itself does."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        with suppress(ValueError):
            sys.path.remove(here)


def arguments_for(
    target: Callable[..., Any],
    input_shape: Sequence[int],
    classes: int,
    vocabulary: int | None = None,
) -> dict[str, Any]:
    if target in MODELS.values() and (target in OF_TEXT) != (vocabulary is not None):
        takes = "text, by --text" if target in OF_TEXT else "images or numbers, and this is text"
        raise ModelError(
            f"{target.__name__} must be given {takes}; models of text are bag and transformer, or "
            "your own with a parameter `vocabulary`"
        )
    offered: dict[str, Any] = {} if vocabulary is None else {"vocabulary": vocabulary}
    offered |= {
        "input_shape": list(input_shape),
        "in_features": math.prod(input_shape),
        "classes": classes,
    }
    parameters = inspect.signature(target).parameters
    if len(input_shape) == 3:
        offered["channels"] = input_shape[0]
    elif target in (networks.MnistCNN, networks.CompactCNN, networks.ResNet, networks.UNet):
        raise ModelError(
            f"{target.__name__} must be given images, of input_shape (channels, height, width), "
            f"and these samples have shape {tuple(input_shape)}; reshape them, or choose the model "
            "logistic, mlp or tabular"
        )
    return {name: value for name, value in offered.items() if name in parameters}


def known_arguments(target: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise ConfigError(f"arguments for a model must be a dict, by name, got {given!r}")
    parameters = inspect.signature(target).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for name in given:
        if name not in parameters and not takes_any:
            kind = f"argument of {getattr(target, '__qualname__', target)}"
            raise ConfigError(unknown_name(kind, name, parameters))
    return dict(given)


def optimizer_class(name: str | type[optim.Optimizer]) -> type[optim.Optimizer]:
    """Return a class of `torch.optim` by its name in lower case, or a class as it is."""
    kinds = [kind for kind in vars(optim).values() if isinstance(kind, type)]
    named = {kind.__name__.lower(): kind for kind in kinds if kind is not optim.Optimizer}
    kind: Any = named.get(name, name) if isinstance(name, str) else name
    if not isinstance(kind, type) or not issubclass(kind, optim.Optimizer):
        raise ConfigError(unknown_name("optimizer", str(name), OPTIMIZERS | named))
    return kind


def make_optimizer(
    name: str | type[optim.Optimizer],
    model: nn.Module,
    *,
    lr: float | None = None,
    momentum: float | None = None,
    fused: bool = False,
    weight_decay: float | None = None,
    nesterov: bool = False,
    layers: Sequence[tuple[list[torch.Tensor], float]] = (),
    optimizer_args: Mapping[str, Any] | None = None,
) -> optim.Optimizer:
    """Make an optimizer; `layers` are groups of parameters, each with the factor of its rate."""
    check_values({"lr": lr, "momentum": momentum, "weight_decay": weight_decay}, NUMBERS)
    name = name.lower() if isinstance(name, str) else name
    kind = optimizer_class(name)
    if kind is optim.SparseAdam and not any(getattr(m, "sparse", 0) for m in model.modules()):
        raise ConfigError(
            "SparseAdam needs sparse gradients, as of Embedding(sparse=True); choose adam"
        )
    accepted = inspect.signature(kind).parameters
    rate = OPTIMIZERS.get(name) if lr is None else lr
    options: dict[str, Any] = {} if rate is None else {"lr": rate}
    if name == "sgd":
        options["momentum"] = 0.9
    if momentum is not None:
        if "momentum" not in accepted:
            raise ConfigError(
                f"applies to sgd and rmsprop only, got {momentum} with {name}", field="momentum"
            )
        options["momentum"] = momentum
    options |= known_arguments(kind, optimizer_args or {})
    if fused:
        if "fused" not in accepted:
            raise ConfigError(f"applies to sgd, adam and adamw only, got {name}", field="fused")
        options["fused"] = True
    if nesterov:
        if name != "sgd" or not options["momentum"]:
            raise ConfigError(f"applies to sgd with momentum only, got {name}", field="nesterov")
        options["nesterov"] = True
    groups: list[dict[str, Any]] = [
        {"params": params, "lr": options.get("lr", accepted["lr"].default) * factor}
        for params, factor in layers
    ] or [{"params": list(model.parameters())}]
    if weight_decay is not None:
        options |= known_arguments(kind, {"weight_decay": weight_decay})
        # Biases and norms do not decay (Goyal et al. 2017, arXiv:1706.02677, section 5.3).
        groups = [
            group | {"params": params} | ({"weight_decay": 0.0} if flat else {})
            for group in groups
            for flat in (False, True)
            if (params := [p for p in group["params"] if (p.dim() <= 1) == flat])
        ]
    with raised_as(ConfigError, f"{kind.__name__} must take the parameters and arguments"):
        return kind(groups, **options)

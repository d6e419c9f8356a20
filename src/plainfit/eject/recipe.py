"""A training that happened, in the terms of a script: read from a run folder or from `fit`."""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from plainfit.common.devices import device_of
from plainfit.common.errors import EjectError, PlainfitError
from plainfit.data.batches import length
from plainfit.data.open_data import NAMES
from plainfit.eject.outcome import Outcome, as_of, outcome_of, weights_hash
from plainfit.eject.untouched import check_untouched
from plainfit.models.build import Factory, resolve
from plainfit.runs import folder as runs
from plainfit.runs.assembly import assemble, loss_function, schedule_of, transformers
from plainfit.runs.pretrained import says_its_model
from plainfit.runs.settings import RunConfig
from plainfit.training.callbacks.optimization import LossScaling, rates_by
from plainfit.training.fit_call import FitCall, bit_sums
from plainfit.training.metrics import accuracy


@dataclass
class Recipe:
    """All that a script is made from."""

    name: str
    """What was trained, on what: the first line of the script."""
    origin: str
    """Where the training is recorded, for the script's header."""
    command: str
    """What it was started by."""
    model: nn.Module
    """As the training began, or of the same kind."""
    target: Any
    """The class or function that builds the model; None for one that was given as it is."""
    arguments: dict[str, Any]
    seed: int
    """Of the initial values."""
    opt: Optimizer
    groups: list[dict[str, Any]]
    """The options of each group of parameters, as the training began."""
    loss_func: Any
    train_dl: Any
    valid_dl: Any
    metrics: list[Any]
    callbacks: list[Any]
    epochs: int
    """How many the script trains."""
    steps: int | None
    """In an epoch."""
    stop: int | None
    """The step after which the training ended, if that was within an epoch."""
    precision: str
    compile: bool
    channels_last: bool
    fingerprint: dict[str, Any]
    outcome: Outcome
    data: tuple[str, Path] | None = None
    """Name and folder of a data set that a script can read by itself."""
    first_epoch: int = 0
    """The epoch of the order that the training began with."""
    order_states: dict[str, Tensor] = field(default_factory=dict)
    """The states of the generators that stock loaders began with, by part."""
    schedules: dict[int, Any] = field(default_factory=dict)
    """From which step on it was trained by which schedule, where a resume changed that."""
    initial: dict[str, Tensor] | None = None
    """The first weights, where a seed does not give them."""
    generator: Tensor | None = None
    """The state of the global generator as the training began, where the seed does not give it."""
    config: RunConfig | None = None
    """The run's settings, where it was made by the command line or `train`."""
    frozen: list[str] = field(default_factory=list)
    """Parameters that are not trained, though the model is built so that they are."""
    notes: list[str] = field(default_factory=list)
    """What is left out, for the header."""

    def limits(self) -> Iterator[EjectError]:
        """Yield why it stops above the lowest rung, for each option that does."""
        used = {"compile": self.compile, "channels_last": self.channels_last}
        used[f"precision {self.precision}"] = self.precision != "fp32"
        for name in (name for name, is_used in used.items() if is_used):
            yield EjectError(f"{name} is PyTorch's own work, and rung data has none of it", "loop")
        if self.fingerprint["world_size"] != 1:
            yield EjectError("a script trains in one process, and this training had several")

    @property
    def device(self) -> str:
        """The kind of device that it was trained on."""
        return str(self.fingerprint["device"])


def from_folder(folder: Path) -> Recipe:
    """Read a run folder.

    Raises:
        RunError: if it is none, or nothing was trained yet.
        EjectError: if its data are not what they were.
    """
    record = runs.read_record(folder)
    config = RunConfig.from_dict(record["config"])
    outcome = outcome_of(folder, record)
    parts = assemble(config, folder)
    if parts.data.fingerprint != record["data"]["fingerprint"]:
        raise EjectError(
            f"the data must be what {folder} was trained on, and {config.data} has changed since; "
            "put them back"
        )
    outcome = as_of(parts.model, outcome, record["model"]["target"])
    steps = len(parts.train_dl)
    epochs, stop = end_of(len(outcome.losses), steps)
    factory = Factory(**record["model"])
    rates = rates_by(schedule_of(config, steps), parts.opt, config.epochs, steps)
    lengths = {0: record.get("first_epochs", config.epochs)}
    lengths |= {p["from_epoch"] * steps: p["epochs"] for p in record.get("lengths", [])}
    schedules = {at: schedule_of(replace(config, epochs=n), steps) for at, n in lengths.items()}
    weights = parts.model.state_dict()
    scaling = [LossScaling()] if config.precision == "fp16" else []
    return Recipe(
        name=f"{type(parts.model).__name__} on {parts.data.name}",
        origin=f"The run {folder}",
        command=command_of(config),
        model=parts.model,
        target=resolve(factory.target),
        arguments=factory.arguments,
        seed=factory.seed,
        opt=parts.opt,
        groups=options_of(parts.opt),
        loss_func=loss_function(config),
        train_dl=parts.train_dl,
        valid_dl=parts.valid_dl,
        metrics=[accuracy],
        callbacks=[*scaling, *rates, *transformers(parts.config, parts.groups)],
        epochs=epochs,
        steps=steps,
        stop=stop,
        precision=config.precision,
        compile=config.compile,
        channels_last=config.channels_last,
        fingerprint=record["fingerprint"],
        outcome=outcome,
        data=(config.data, data_folder(config)) if config.data in NAMES else None,
        schedules=schedules if rates and len(schedules) > 1 else {},
        initial={n: t.clone() for n, t in weights.items()} if factory.loaded else None,
        config=config,
    )


def from_fit(call: FitCall) -> Recipe:
    """Read what a call of `fit` left.

    Raises:
        EjectError: if the model cannot be built again, or was changed since.
    """
    steps, done = length(call.train_dl), len(call.losses)
    if not done:
        raise EjectError("a script is made of a training that happened, and this one had no step")
    if call.has_stepped:
        raise EjectError(
            "a script begins with a new optimizer, and this one had taken steps before; make a new "
            "one for the training that is to be a script"
        )
    factory = getattr(call.model, "plainfit_factory", None)
    if steps is None:
        raise EjectError(
            "a script needs to know the steps of an epoch, and the training loader has no length"
        )
    epochs, stop = end_of(done, steps)
    recipe = Recipe(
        name=f"{type(call.model).__name__}",
        origin="A training",
        command="plainfit.fit",
        model=call.model,
        target=resolve_factory(factory),
        arguments=factory.arguments if factory else {},
        seed=factory.seed if factory else 0,
        opt=call.opt,
        groups=call.groups,
        loss_func=call.loss_func,
        train_dl=call.train_dl,
        valid_dl=call.valid_dl,
        metrics=list(call.metrics),
        callbacks=list(call.callbacks),
        epochs=epochs,
        steps=steps,
        stop=stop,
        precision=call.precision,
        compile=call.compile,
        channels_last=False,
        fingerprint=call.fingerprint,
        outcome=Outcome(list(call.losses), dict(call.model.state_dict()), weights_hash(call.model)),
    )
    recipe.first_epoch = call.first_epoch or 0
    recipe.order_states = call.order_states
    begin_as_recorded(recipe, call)
    return recipe


def end_of(done: int, steps: int) -> tuple[int, int | None]:
    """Return the epochs of a training of so many steps, and the last one if it is within one."""
    whole, rest = divmod(done, steps)
    return (whole + 1, done) if rest else (whole, None)


def begin_as_recorded(recipe: Recipe, call: FitCall) -> None:
    """Find out how the script gets to the weights and the generator that the training began with.

    Raises:
        EjectError: if there is no way.
    """
    if recipe.target is None:
        check_untouched(call.model, None)
        if call.initial is None:
            raise EjectError(
                "a script needs the first weights of a model, and this one was given built, with "
                "more than 64 MiB of them; build it with plainfit.get_model, which records how"
            )
        recipe.initial = call.initial
        recipe.generator = call.generator
        recipe.frozen = untrained(call.model)
        return
    with torch.random.fork_rng(devices=[]):
        factory: Any = call.model.plainfit_factory
        fresh = factory.call(recipe.target)
        state = torch.get_rng_state()
    fresh.to(device_of(call.model))
    check_untouched(call.model, fresh)
    if factory.loaded:
        recipe.initial = call.initial
    elif bit_sums(fresh) != call.sums:
        raise EjectError(
            f"the training must begin with the weights that {factory.target} gives after its seed "
            f"{factory.seed}, and it began with others (it was trained or changed before): eject "
            "the first training, or build the model anew"
        )
    if not torch.equal(state, call.generator):
        recipe.generator = call.generator
    as_built = untrained(fresh)
    recipe.frozen = [name for name in untrained(call.model) if name not in as_built]


def untrained(model: nn.Module) -> list[str]:
    """Return the names of the parameters that get no gradients."""
    return [name for name, parameter in model.named_parameters() if not parameter.requires_grad]


def resolve_factory(factory: Factory | None) -> Any:
    """Return the class or function that built a model, if that is known."""
    if factory is None:
        return None
    try:
        return resolve(factory.target)
    except PlainfitError as error:
        raise EjectError(
            f"a script builds the model by a class or function with a name in a module, got "
            f"{factory.target}; define it at the top of a file"
        ) from error


def options_of(opt: Optimizer) -> list[dict[str, Any]]:
    """Return the options of each group of parameters."""
    return [{k: v for k, v in group.items() if k != "params"} for group in opt.param_groups]


def data_folder(config: RunConfig) -> Path:
    """Return where the IDX files of a run are."""
    from plainfit.data.mnist import cache_folder

    return Path(config.data_dir or cache_folder() / config.data).absolute()


def command_of(config: RunConfig) -> str:
    """Return the command line that makes a run with these settings."""
    default = RunConfig().to_dict()
    words, implied = ["plainfit train"], {"out", "data_dir", "source"}
    if config.source is not None:
        words = ["plainfit fine-tune", shlex.quote(config.source)]
        implied |= {"model"} if says_its_model(config.source) else set()
    for name, value in config.to_dict().items():
        if value == default[name] or name in implied:
            continue
        option = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        else:
            words.append(f"--{option} {shlex.quote(str(value))}")
    return " ".join(words)

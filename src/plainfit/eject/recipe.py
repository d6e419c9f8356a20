"""What a script is made from: read from a run folder, or from a call of `fit`."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from plainfit.common.devices import device_of
from plainfit.common.errors import EjectError, PlainfitError
from plainfit.data.batches import batch_size, length
from plainfit.data.mnist import cache_folder
from plainfit.data.open_data import NAMES
from plainfit.data.targets import SEGMENTATION
from plainfit.eject.source import place
from plainfit.eject.values import rebuilt
from plainfit.eject.verify import Outcome, as_of, outcome_of, saved
from plainfit.models.build import Factory, resolve
from plainfit.runs import folder as runs
from plainfit.runs.prepare import prepare, schedule_of, transformers
from plainfit.runs.settings import RunConfig
from plainfit.runs.tasks import loss_function, metrics_of
from plainfit.training.callbacks.optimization import LossScaling, rates_by
from plainfit.training.fit_call import FitCall, bit_sums
from plainfit.training.named_metrics import made

AS_CALLED = (
    "model", "opt", "groups", "loss_func", "train_dl", "valid_dl", "metrics", "callbacks",
    "precision", "compile", "valid_program", "first_epoch", "order_states",
    "counts_samples", "batch_size", "joins_tensors", "has_values",
)  # fmt: skip
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@dataclass
class Recipe:
    name: str  # the model and its data, for the first line of the script
    origin: str  # where the training is recorded, for the script's header
    command: str  # the command or function that started it
    model: nn.Module  # in any state; `target`, `seed` and `initial` say how it began
    target: Any  # the class or function that builds it; None for one that was passed to `fit`
    arguments: dict[str, Any]
    seed: int
    opt: Optimizer
    groups: list[dict[str, Any]]  # the options of each group of parameters, as the training began
    loss_func: Any
    train_dl: Any
    valid_dl: Any
    metrics: list[Any]
    callbacks: list[Any]
    steps: int  # steps in an epoch
    precision: str
    compile: str
    valid_program: bool  # whether the full batches of the validation were one program
    shards: int  # the pieces of a batch; 0 for whole batches
    fingerprint: dict[str, Any]
    outcome: Outcome
    channels_last: bool = False
    data: tuple[str, Path] | None = None  # of a dataset that a script can read: name, folder
    first_epoch: int = 0  # the epoch of the order that the training began with
    order_states: dict[str, Tensor] = field(default_factory=dict)  # of stock loaders at the start
    schedules: dict[int, Any] = field(default_factory=dict)  # by first step, if resumed for longer
    initial: dict[str, Tensor] | None = None  # the first weights, where a seed does not give them
    loss_initial: dict[str, Tensor] = field(default_factory=dict)  # the same of the loss
    generator: Tensor | None = None  # the global one's first state, unless the seed gives it
    counts_samples: bool = True  # whether a validation loss is the mean over the samples
    batch_size: Any = batch_size
    has_values: bool = False  # whether the loss came with values by name
    joins_tensors: bool = True  # whether outputs and targets of the validation are tensors
    config: RunConfig | None = None  # the settings of a run folder; None for a call of `fit`
    frozen: list[str] = field(default_factory=list)  # what the model trains when it is new
    ties: dict[str, str] = field(default_factory=dict)  # of layers and tensors, made afterwards

    def limits(self) -> Iterator[EjectError]:
        used = {"compile": self.compile, "channels_last": self.channels_last}
        used[f"precision {self.precision}"] = self.precision != "fp32"
        for name in (name for name, is_used in used.items() if is_used):
            yield EjectError(f"{name} is PyTorch's own work, and level data has none of it", "loop")
        if not self.counts_samples:
            yield EjectError(
                "the validation loss counts by the weights of labels or as a sum, and level "
                "tensors has a loss without them",
                "layers",
            )
        if self.shards:
            yield EjectError(
                "batches in pieces are added by autograd and torch.distributed, and level data has "
                "neither",
                "loop",
            )

    @property
    def epochs(self) -> int:
        return -(-len(self.outcome.losses) // self.steps)

    @property
    def stop(self) -> int | None:
        """The step after which the training ended, if that was within an epoch."""
        done = len(self.outcome.losses)
        return done if done % self.steps else None

    @property
    def device(self) -> str:
        return str(self.fingerprint["device"])


def from_folder(folder: Path, *, trust_code: bool = False) -> Recipe:
    run = runs.open_run(folder, trust_code=trust_code)
    record, config = run.record, run.config
    outcome = outcome_of(folder, record)
    parts = prepare(config, run)
    outcome = as_of(parts.model, outcome, record["model"]["target"])
    shards, is_fast = config.shards or 1, config.reduce == "fast" or config.fsdp is not None
    steps = len(parts.train_dl)
    factory = run.factory
    rates = rates_by(schedule_of(config, steps), config.epochs * steps)
    schedules = {
        at: schedule_of(replace(config, epochs=n), steps) for at, n in run.lengths(steps).items()
    }
    weights = parts.model.state_dict()
    data_folder = Path(config.data_dir or cache_folder() / config.data)
    scaling = [LossScaling()] if config.precision == "fp16" else []
    return Recipe(
        name=f"{type(parts.model).__name__} on {parts.data.name}",
        origin=f"The run {folder}",
        command=config.command(),
        model=parts.model,
        target=resolve(factory.target),
        arguments=factory.arguments,
        seed=factory.seed,
        opt=parts.opt,
        groups=[{k: v for k, v in g.items() if k != "params"} for g in parts.opt.param_groups],
        loss_func=loss_function(config, parts.data.target, device_of(parts.model)),
        train_dl=parts.train_dl,
        valid_dl=parts.valid_dl,
        metrics=made(metrics_of(config, parts.data.target)),
        callbacks=[*scaling, *rates, *transformers(parts.config, parts.groups)],
        steps=steps,
        precision=config.precision,
        compile=record.get("compiled", config.compile) or "",
        valid_program=record.get("compiled_validation", False),
        shards=shards if shards > 1 else 0,
        channels_last=config.channels_last,
        fingerprint=of_one_process(record["fingerprint"], is_fast),
        outcome=outcome,
        counts_samples=not config.class_weights and parts.data.task != SEGMENTATION,
        data=(config.data, data_folder.absolute()) if config.data in NAMES else None,
        schedules=schedules if rates and len(schedules) > 1 else {},
        initial={n: t.clone() for n, t in weights.items()} if factory.loaded else None,
        config=config,
    )


def from_fit(call: FitCall) -> Recipe:
    steps, sharding = length(call.train_dl), call.sharding
    if not call.losses:
        raise EjectError("a script repeats a training, and this one took no step; train first")
    if call.branches:
        raise EjectError(
            "a script has one schedule and one rate, and this training was resumed with others "
            f"({call.branches[0]}); train anew, or train a run folder, which notes its lengths"
        )
    if call.unlike_a_script:
        raise EjectError(
            "a script has the loop of fit without options that change it, and this training had "
            f"{', '.join(call.unlike_a_script)}; train without, or keep the call of fit"
        )
    if sharding is not None and sharding.weighed.is_sum:
        raise EjectError(
            "a script with batches in pieces has a mean loss, and this one was a sum; train with "
            "a mean, or with whole batches (shards=1)"
        )
    if call.has_stepped:
        raise EjectError(
            "a script begins with a new optimizer, and this one had taken steps before; make a new "
            "one for the training that is to be a script"
        )
    factory = getattr(call.model, "plainfit_factory", None)
    if steps is None:
        raise EjectError(
            "a script needs the number of steps in an epoch, and the training loader has none; "
            "give it a __len__"
        )
    recipe = Recipe(
        name=f"{type(call.model).__name__}",
        origin="A training",
        command="plainfit.fit",
        target=target_of(factory) if factory else None,
        arguments=factory.arguments if factory else {},
        seed=factory.seed if factory else 0,
        steps=steps,
        shards=0 if sharding is None else sharding.shards.count,
        fingerprint=of_one_process(call.fingerprint, sharding is not None and sharding.fast),
        outcome=Outcome(list(call.losses), *saved(call.model)),
        **{name: getattr(call, name) for name in AS_CALLED},
    )
    begin_as_recorded(recipe, call)
    return recipe


def of_one_process(fingerprint: dict[str, Any], is_fast: bool) -> dict[str, Any]:
    """Return a fingerprint without the number of processes, which changes no bits."""
    if is_fast and fingerprint["world_size"] != 1:
        raise EjectError(
            "a script has the bits of reduce='exact', which are those of one process, and this "
            "training had reduce='fast' or fsdp; train with 'exact'"
        )
    return {**fingerprint, "world_size": 1}


def begin_as_recorded(recipe: Recipe, call: FitCall) -> None:
    """Set what gives the weights and the generator that the training began with."""
    model, factory = call.model, getattr(call.model, "plainfit_factory", None)
    if factory is None and call.initial is None:
        raise EjectError(
            "a script needs the first weights of a model, and this one was given built, with "
            "more than 64 MiB of them; build it with plainfit.get_model, which records how"
        )
    with torch.random.fork_rng(devices=[]):
        fresh = factory.call(recipe.target) if factory else rebuilt(model)
        state = torch.get_rng_state()
        loss = rebuilt(call.loss_func)
    fresh.to(device_of(model))
    if isinstance(loss, nn.Module) and bit_sums(loss) != call.loss_sums:
        recipe.loss_initial = call.loss_initial
    if factory is None:
        for dtype in {p.dtype for p in model.parameters()}:
            fresh.to(dtype)  # one at most, else it is refused
        if any(map(is_lazy, fresh.parameters())):
            fresh.load_state_dict(call.initial)
    own = ties(fresh)
    recipe.ties = {name: first for name, first in ties(model).items() if name not in own}
    tie(fresh, recipe.ties)
    check_untouched(model, fresh)
    if factory is None or factory.loaded:
        recipe.initial = call.initial
    elif bit_sums(fresh) != call.sums:
        raise EjectError(
            f"the training must begin with the weights that {factory.target} gives after its seed "
            f"{factory.seed}, and it began with others (it was trained or changed before): eject "
            "the first training, or build the model again"
        )
    if factory is None or not torch.equal(state, call.generator):
        recipe.generator = call.generator
    as_built = untrained(fresh)
    recipe.frozen = [name for name in untrained(model) if name not in as_built]


def ties(model: nn.Module) -> dict[str, str]:
    """Return the names of layers and tensors that have another name before, with that name."""
    first: dict[int, str] = {}
    found: dict[str, str] = {}
    for members in (model.named_modules, model.named_parameters, model.named_buffers):
        for name, part in members(remove_duplicate=False):
            if first.setdefault(id(part), name) != name and name.rpartition(".")[0] not in found:
                found[name] = first[id(part)]
    return found


def tie(model: nn.Module, names: dict[str, str]) -> None:
    for name, first in names.items():
        (owner, _, last), (other, _, its) = name.rpartition("."), first.rpartition(".")
        setattr(model.get_submodule(owner), last, getattr(model.get_submodule(other), its))


def untrained(model: nn.Module) -> list[str]:
    return [name for name, parameter in model.named_parameters() if not parameter.requires_grad]


def target_of(factory: Factory) -> Any:
    try:
        return resolve(factory.target)
    except PlainfitError as error:
        raise EjectError(
            f"a script builds the model by a class or function with a name in a module, got "
            f"{factory.target}; define it at the top of a file"
        ) from error


def check_untouched(model: nn.Module, fresh: nn.Module) -> None:
    """Check that a model has no hooks, patches or layers that its builder does not give it."""
    own, others = dict(model.named_modules()), dict(fresh.named_modules())
    for name, module in own.items():
        if "_orig_mod" in module._modules and not hasattr(others.get(name), "_orig_mod"):
            inner = getattr(model, "_orig_mod", model)
            raise changed(inner, f"torch.compile wraps {name or 'it'}, in place of compile='step'")
    if own.keys() != others.keys():
        name = min(own.keys() ^ others.keys())
        raise changed(model, f"the layer {name!r} is in one of them only")
    for name, module in own.items():
        other = others[name]
        if hasattr(module, "parametrizations") and not hasattr(other, "parametrizations"):
            raise changed(model, f"{name or 'it'} has parametrizations")
        if type(module) not in (type(other), getattr(other, "cls_to_become", None)):
            kinds = f"{type(module).__name__}, and was built as {type(other).__name__}"
            raise changed(model, f"{name or 'it'} is a {kinds}")
        if "forward" in vars(module) and "forward" not in vars(other):
            raise changed(model, f"the forward of {name or 'it'} was replaced")
        for kind in HOOKS:
            if len(getattr(module, kind)) > len(getattr(other, kind)):
                raise changed(model, f"{name or 'it'} has {kind.strip('_').replace('_', ' ')}")
    shapes = [{n: (t.shape, t.dtype) for n, t in m.state_dict().items()} for m in (model, fresh)]
    if differing := sorted(name for name, _ in shapes[0].items() ^ shapes[1].items()):
        raise changed(model, f"{differing[0]} has another shape or type, or is in one only")
    if untied := min(ties(model).items() ^ ties(fresh).items(), default=None):
        raise changed(model, "{} and {} are one in one of them only".format(*untied))


def changed(model: nn.Module, how: str) -> EjectError:
    return EjectError(
        f"{place(type(model))}: a script builds the model as its class does, and this one was "
        f"changed afterwards: {how}; do it in the class, or in a function given to get_model"
    )

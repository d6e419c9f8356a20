"""The search space of a study, from a command line, TOML or Python, and its other settings."""

import math
import re
import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from plainfit.common.errors import ConfigError, unknown_name
from plainfit.runs.settings import RunConfig, TransferSettings, names_of

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

ALL_KINDS = (NoneType, bool, int, float, str)
# Settings that choose the samples, the folder or the end of a run: values would not compare. And
# fine-tuning, which a search does not do.
NOT_SEARCHED = (
    "data", "data_dir", "target", "skip_bad", "memory_budget", "split_seed", "seed", "out",
    "time_limit", *names_of(TransferSettings),
)  # fmt: skip
RANGE = re.compile(r"(log:)?(.*?)\.\.(.*)")
EXAMPLES = "log:1e-3..1, 16..64 or mlp,cnn"


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, whole if both are; uniform, or uniform by their logarithm.

    >>> str(Range(0.001, 1.0, log=True)), str(Range(1, 3))
    ('log:0.001..1.0', '1..3')
    """

    low: float
    high: float
    log: bool = False

    def __str__(self) -> str:
        return f"{'log:' if self.log else ''}{self.low!r}..{self.high!r}"

    @property
    def samples(self) -> tuple[Any, ...]:
        """Values to check in place of all."""
        return self.low, self.high

    def plain(self) -> Any:
        """Return a form for JSON that `parse` takes."""
        return str(self)

    def distribution(self) -> "BaseDistribution":
        from optuna.distributions import FloatDistribution, IntDistribution

        kind = IntDistribution if isinstance(self.low, int) else FloatDistribution
        return kind(self.low, self.high, log=self.log)  # type: ignore[arg-type]  # whole if low is


@dataclass(frozen=True)
class Choices:
    """Values without an order.

    >>> str(Choices(("mlp", 3, None)))
    'mlp,3,none'
    """

    values: tuple[Any, ...]

    def __str__(self) -> str:
        return ",".join("none" if value is None else str(value) for value in self.values)

    @property
    def samples(self) -> tuple[Any, ...]:
        """Values to check in place of all."""
        return self.values

    def plain(self) -> Any:
        """Return a form for JSON that `parse` takes."""
        return list(self.values)

    def distribution(self) -> "BaseDistribution":
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(self.values)


Spec = Range | Choices


@dataclass(frozen=True)
class StudyConfig:
    """What all processes of a study must agree on."""

    space: dict[str, Spec]
    fixed: dict[str, Any]
    monitor: str
    lower_is_better: bool
    pruner: str
    seeds: int
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """Return it as it is stored."""
        return vars(self) | {"space": {name: spec.plain() for name, spec in self.space.items()}}

    def check_against(self, stored: Mapping[str, Any], folder: Path) -> None:
        """Check that a study in a folder is this one."""
        before = flat({**stored, "space": parse_space(stored["space"])})
        now = flat(vars(self))
        for name in now | before:
            if before.get(name) != now.get(name):
                was, wanted = (
                    f"{name}={texts[name]}" if name in texts else f"no {name}"
                    for texts in (before, now)
                )
                raise ConfigError(
                    f"a study must continue with its own settings: {folder} has {was}, got "
                    f"{wanted}; choose another folder"
                )


def flat(config: Mapping[str, Any]) -> dict[str, str]:
    """Return a study's config as texts by name, its settings among them."""
    rest = {n: value for n, value in config.items() if n not in ("space", "fixed", "trials")}
    searched = {f"search {name}": spec for name, spec in config["space"].items()}
    return {name: str(value) for name, value in {**searched, **config["fixed"], **rest}.items()}


def parse_space(
    space: Mapping[str, Any], kinds_of: Callable[[str], Collection[type]] = lambda name: ALL_KINDS
) -> dict[str, Spec]:
    """Parse and check a search space.

    Args:
        space: by name, `"log:A..B"`, `"A..B"`, `"a,b,c"`, a tuple `(low, high)` or a list.
        kinds_of: the types that the setting of a name takes.

    Raises:
        ConfigError: if it is empty, or a setting has none of these forms.
    """
    if not space:
        raise ConfigError(
            "a search needs at least one setting, got none; "
            f"give NAME={EXAMPLES.replace(', ', ', NAME=').replace(' or ', ' or NAME=')}"
        )
    return {name: parse(name, spec, kinds_of(name)) for name, spec in space.items()}


def parse(name: str, spec: Any, kinds: Collection[type] = ALL_KINDS) -> Spec:
    """Parse what is searched of one setting.

    >>> parse("lr", "log:1e-3..1"), parse("width", (8, 64))
    (Range(low=0.001, high=1.0, log=True), Range(low=8, high=64, log=False))
    >>> parse("model", "mlp, cnn"), parse("clip", [None, 1.0])
    (Choices(values=('mlp', 'cnn')), Choices(values=(None, 1.0)))
    """
    if isinstance(spec, Range | Choices):
        return spec
    if isinstance(spec, tuple) and len(spec) == 2:
        return parse_range(name, f"{spec[0]}..{spec[1]}", kinds)
    if isinstance(spec, list):
        return checked_choices(name, spec, kinds)
    if not isinstance(spec, str):
        raise ConfigError(
            f"{name} must be text such as {EXAMPLES}, a tuple (low, high) or a list, got {spec!r}"
        )
    if ".." in spec or spec.startswith("log:"):
        return parse_range(name, spec, kinds)
    return checked_choices(name, [value_of(name, text, kinds) for text in spec.split(",")], kinds)


def parse_range(name: str, text: str, kinds: Collection[type]) -> Range:
    """Parse `A..B` or `log:A..B`."""
    if not {int, float} & set(kinds):
        raise ConfigError(
            f"{name} must have choices, such as {name}=a,b: it takes no numbers; got {text}"
        )
    match = RANGE.fullmatch(text)
    ends = [number(end) for end in match.groups()[1:]] if match else [None]
    low, high = ends if len(ends) == 2 else (None, None)
    if low is None or high is None or not -math.inf < low < high < math.inf:
        raise ConfigError(f"the range of {name} must be A..B with A below B, got {text}")
    log = match is not None and match[1] is not None
    if log and low <= 0:
        raise ConfigError(f"the log range of {name} must start above 0, got {text}")
    if isinstance(low, int) and isinstance(high, int) and int in kinds:
        return Range(low, high, log)
    if float not in kinds:
        raise ConfigError(f"the range of {name} must be of whole numbers, got {text}")
    return Range(float(low), float(high), log)


def number(text: str) -> int | float | None:
    """Return an int or a float; None if the text is neither."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return None


def value_of(name: str, text: str, kinds: Collection[type]) -> Any:
    """Return a choice as a value of the first type that fits."""
    text = text.strip()
    if NoneType in kinds and text == "none":
        return None
    if bool in kinds and text in ("true", "false"):
        return text == "true"
    value = number(text)
    if isinstance(value, int) and int in kinds:
        return value
    if value is not None and float in kinds:
        return float(value)
    if str in kinds and text:
        return text
    wanted = ", ".join(kind.__name__ for kind in kinds if kind is not NoneType)
    raise ConfigError(f"the choices of {name} must be of type {wanted}, got {text!r}")


def checked_choices(name: str, values: Sequence[Any], kinds: Collection[type]) -> Choices:
    """Return values as choices."""
    for value in values:
        if type(value) not in kinds and not (type(value) is int and float in kinds):
            wanted = ", ".join(kind.__name__ for kind in kinds)
            raise ConfigError(f"the choices of {name} must be of type {wanted}, got {value!r}")
    if not values or len(set(map(repr, values))) < len(values):
        raise ConfigError(
            f"the choices of {name} must be at least one, all different; got {values}"
        )
    return Choices(tuple(values))


def kinds_of_setting(name: str) -> tuple[type, ...]:
    """Return the types that a setting of a run takes.

    >>> kinds_of_setting("batch_size"), kinds_of_setting("clip")
    ((<class 'int'>,), (<class 'float'>, <class 'NoneType'>))

    Raises:
        ConfigError: if there is no such setting, or it is not searched.
    """
    searched = [item.name for item in fields(RunConfig) if item.name not in NOT_SEARCHED]
    if name in NOT_SEARCHED:
        raise ConfigError(f"{name} must be the same in all trials, so it cannot be searched")
    if name not in searched:
        raise ConfigError(unknown_name("setting to search", name, searched))
    kind = get_args(get_type_hints(RunConfig, include_extras=True)[name])[0]
    return get_args(kind) or (kind,)


def read_searches(texts: Sequence[str], file: Path | None) -> dict[str, Any]:
    """Return the search space of the command line: a TOML file, and each `NAME=WHAT`."""
    found: dict[str, Any] = {}
    if file is not None:
        try:
            found = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{file} must be a TOML file of NAME = WHAT: {error}") from error
    for text in texts:
        name, equals, spec = text.partition("=")
        if not equals:
            raise ConfigError(
                f"must be NAME=WHAT, such as lr=log:1e-3..1, got {text!r}", field="search"
            )
        if name in found:
            raise ConfigError(f"a setting must be searched once, and {name} is named twice")
        found[name] = spec
    return {name.replace("-", "_"): spec for name, spec in found.items()}

"""The search space of a study, from a command line, TOML or Python, and its other settings."""

import math
import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, get_args

from plainfit.common.errors import ConfigError, raised_as, unknown_name
from plainfit.common.schema import hints_of
from plainfit.runs.settings import DataSettings, RunConfig, TransferSettings, names_of

ALL_KINDS = (NoneType, bool, int, float, str)
# Settings that choose the samples, the folder or the end of a run: values would not compare. And
# fine-tuning, which a search does not do.
NOT_SEARCHED = (
    *names_of(DataSettings, without=("image_size", "image_mode", "resize")), "seed", "out",
    "time_limit", *names_of(TransferSettings),
)  # fmt: skip


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
    def values(self) -> tuple[Any, ...]:
        """The ends, to check in place of all values."""
        return self.low, self.high


@dataclass(frozen=True)
class Choices:
    """Values without an order.

    >>> str(Choices(("mlp", 3, None)))
    'mlp,3,none'
    """

    values: tuple[Any, ...]

    def __str__(self) -> str:
        return ",".join("none" if value is None else str(value) for value in self.values)


Spec = Range | Choices


@dataclass(frozen=True)
class StudyConfig:
    """What all processes of a study must agree on."""

    space: dict[str, Spec]
    fixed: dict[str, Any]
    monitor: str
    mode: str
    pruner: str
    seeds: int
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """Return a form for JSON, whose space `parse_space` takes."""
        space = {name: list(spec.values) if isinstance(spec, Choices) else str(spec)
                 for name, spec in self.space.items()}  # fmt: skip
        return vars(self) | {"space": space}

    def check_against(self, stored: Mapping[str, Any], folder: Path) -> None:
        before = flat({**stored, "space": parse_space(stored["space"])})
        now = flat(vars(self))
        for name in now | before:
            was, wanted = (texts.get(name, f"no {name}") for texts in (before, now))
            if was != wanted:
                raise ConfigError(
                    f"a study must continue with its own settings: {folder} has {was}, got "
                    f"{wanted}; choose another folder"
                )


def brought_up_to_date(stored: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return what `StudyConfig.to_dict` gives now for the description of an older study."""
    if stored is None or "lower_is_better" not in stored:
        return stored
    rest = {name: value for name, value in stored.items() if name != "lower_is_better"}
    return rest | {"mode": "min" if stored["lower_is_better"] else "max"}


def flat(config: Mapping[str, Any]) -> dict[str, str]:
    rest = {n: value for n, value in config.items() if n not in ("space", "fixed", "trials")}
    searched = {f"search {name}": spec for name, spec in config["space"].items()}
    texts = {**searched, **config["fixed"], **rest}
    return {name: f"{name}={value}" for name, value in texts.items()}


def parse_space(
    space: Mapping[str, Any], kinds_of: Callable[[str], Collection[type]] = lambda name: ALL_KINDS
) -> dict[str, Spec]:
    if not space:
        raise ConfigError(
            "a search needs at least one setting, got none; "
            "give NAME=log:1e-3..1, NAME=16..64 or NAME=mlp,cnn"
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
            f"{name} must be text such as log:1e-3..1, 16..64 or mlp,cnn, a tuple (low, high) or a "
            f"list, got {spec!r}"
        )
    if ".." in spec or spec.startswith("log:"):
        return parse_range(name, spec, kinds)
    return checked_choices(name, [value_of(name, text, kinds) for text in spec.split(",")], kinds)


def parse_range(name: str, text: str, kinds: Collection[type]) -> Range:
    if not {int, float} & set(kinds):
        raise ConfigError(
            f"{name} must have choices, such as {name}=a,b: it takes no numbers; got {text}"
        )
    start, _, end = text.removeprefix("log:").partition("..")
    low, high, log = number(start), number(end), text.startswith("log:")
    if low is None or high is None or not -math.inf < low < high < math.inf:
        raise ConfigError(f"the range of {name} must be A..B with A below B, got {text}")
    if log and low <= 0:
        raise ConfigError(f"the log range of {name} must start above 0, got {text}")
    if isinstance(low, int) and isinstance(high, int) and int in kinds:
        return Range(low, high, log)
    if float not in kinds:
        raise ConfigError(f"the range of {name} must be of whole numbers, got {text}")
    return Range(float(low), float(high), log)


def number(text: str) -> int | float | None:
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return None


def value_of(name: str, text: str, kinds: Collection[type]) -> Any:
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
    """
    searched = names_of(RunConfig, without=NOT_SEARCHED)
    if name in NOT_SEARCHED:
        raise ConfigError(f"{name} must be the same in all trials, so it cannot be searched")
    if name not in searched:
        raise ConfigError(unknown_name("setting to search", name, searched))
    kind = get_args(hints_of(RunConfig)[name])[0]
    return get_args(kind) or (kind,)


def read_searches(texts: Sequence[str], file: Path | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if file is not None:
        with raised_as(ConfigError, f"{file} must be a TOML file of NAME = WHAT"):
            found = tomllib.loads(file.read_text(encoding="utf-8"))
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

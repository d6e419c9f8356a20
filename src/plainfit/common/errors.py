"""Every error that plainfit raises on purpose.

    PlainfitError
    ├── ConfigError (ValueError)     a setting or a name that is unknown or out of range
    ├── DataError (ValueError)       data that cannot be read, or cannot be trained on
    │   └── DownloadError            data that could not be fetched
    ├── ModelError (ValueError)      a model that cannot be built, or does not fit its data
    │   └── TrustError               a model whose code did not train here and was not trusted
    ├── EjectError                   a run that cannot become a script at this level
    │   └── MismatchError            a script that gives something else than its run
    ├── RunError                     a run folder that cannot be written or read
    │   └── CheckpointError          a checkpoint that is damaged or of another training
    └── TrainingError                a training that had to stop; the command line exits with 1
        └── NonFiniteError           a loss or a gradient that is NaN or infinite

A message is one line: what must hold, what was received, and what to do about it, such as a command
that a user can copy to a shell.
"""

import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path


class PlainfitError(Exception):
    """Base of all errors below; the command line prints it on one line and exits with 2."""

    def __str__(self) -> str:
        return " ".join(super().__str__().splitlines())  # a path may have any character


class ConfigError(PlainfitError, ValueError):
    """A setting or a name is unknown or out of range.

    `field` is the setting, as `RunConfig` and `get_model` call it, and the start of the message.
    The command line shows it as an option, and those with `_` in their names after the last `;`.
    """

    def __init__(self, message: str, field: str | None = None) -> None:
        start = "" if field is None or message.startswith(field) else f"{field} "
        super().__init__(start + message)
        self.field = field


class DataError(PlainfitError, ValueError):
    """The data cannot be read, or cannot be trained on."""


class DownloadError(DataError):
    """No mirror had the file with the right hash."""


class ModelError(PlainfitError, ValueError):
    """The model cannot be built, or does not fit the data."""


class TrustError(ModelError):
    """A run or a file names code that did not train on this machine; it was not imported."""

    def __init__(self, target: str, source: str) -> None:
        super().__init__(
            f"the code of {target} must be trusted before it runs, and {source} did not train on "
            "this machine as it is now; read it, then pass trust_code"
        )
        self.target, self.source = target, source


class EjectError(PlainfitError):
    """A run cannot become a script; `lowest` is the lowest level at which it can, if there is one.

    The levels, from the highest: loop, data, optim, layers, tensors, math.
    """

    def __init__(self, message: str, lowest: str | None = None) -> None:
        works = f"; the lowest level that works is {lowest}" if lowest else ""
        super().__init__(message + works)
        self.lowest = lowest


class MismatchError(EjectError):
    """A script gives another loss or other weights than the training that it was made from."""


class RunError(PlainfitError):
    """A run folder cannot be written or read."""


class CheckpointError(RunError):
    """A checkpoint is damaged, or does not fit the training that is to continue."""


class TrainingError(PlainfitError):
    """A training had to stop; what was saved before is kept. The command line exits with 1."""


class NonFiniteError(TrainingError, ArithmeticError):
    """A loss or a gradient is NaN or infinite; the step was not taken."""


NO_MEMORY = re.compile(
    "MemoryError|not enough memory|out of memory|(cannot|can't|unable to) allocate|bad_alloc|"
    "could not create a memory|is memory short|killed by signal",
    re.IGNORECASE,
)  # as Python, NumPy, torch, CUDA, C++, oneDNN, our own reader and a DataLoader say it


def memory_hint(message: str) -> str:
    """Return what helps if a message says that memory ran out, else the empty string.

    >>> memory_hint("RuntimeError: CUDA out of memory. Tried to allocate 2.00 GiB")
    '; memory ran out: train with a smaller image_size, batch_size or memory_budget'
    """
    hint = "; memory ran out: train with a smaller image_size, batch_size or memory_budget"
    return hint if NO_MEMORY.search(message) else ""


def near_miss(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'cnn'?` if a known name is close, else the empty string.

    >>> near_miss("resnett", ["cnn", "resnet"])
    "; did you mean 'resnet'?"
    >>> near_miss("transformer", ["cnn", "resnet"])
    ''
    """
    spelled = {candidate.lower(): candidate for candidate in known}
    match = get_close_matches(str(name).lower(), spelled, n=1)
    return f"; did you mean {spelled[match[0]]!r}?" if match else ""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """Return a message for an unknown name, with the known ones and the nearest of them.

    >>> unknown_name("optimizer", "adm", ["sgd", "adam"])
    "unknown optimizer 'adm': choose from sgd, adam; did you mean 'adam'?"
    """
    known = list(known)
    return f"unknown {kind} {name!r}: choose from {', '.join(known)}{near_miss(name, known)}"


@contextmanager
def raised_as(kind: type[PlainfitError], what: str) -> Iterator[None]:
    """Raise whatever else is raised within, by a user's code or another library, as one of ours.

    >>> with raised_as(ModelError, "the model must take images"):
    ...     1 / 0
    Traceback (most recent call last):
    plainfit.common.errors.ModelError: the model must take images, and failed with \
ZeroDivisionError: division by zero
    """
    try:
        yield
    except PlainfitError:
        raise
    except Exception as error:
        raise kind(f"{what}, and failed with {reason(error)}") from error


def reason(error: BaseException) -> str:
    """Return an error on one line, with its type unless it is one of ours."""
    # Ours are printed on one line, and a worker's has several.
    text = (Exception.__str__(error) if isinstance(error, PlainfitError) else str(error)).strip()
    if "\nOriginal Traceback " in text:  # of a worker of a DataLoader: its last line is the error
        return re.sub(r"^plainfit\.[\w.]+: ", "", text.splitlines()[-1])
    line = " ".join(text.split())
    name = type(error).__name__
    return line if isinstance(error, PlainfitError) else f"{name}: {line}" if line else name


def shortened(names: Sequence[str], most: int = 5) -> str:
    """
    >>> shortened(["a", "b", "c", "d", "e", "f", "g"])
    'a, b, c, d, e and 2 more'
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def plural(n: int, one: str, many: str = "") -> str:
    """
    >>> plural(1, "image is", "images are"), plural(1200, "row")
    ('1 image is', '1,200 rows')
    """
    return f"{n:,} {one if n == 1 else many or f'{one}s'}"


def command(*words: str | int | Path) -> str:
    r"""Return a `plainfit` command, quoted for a shell, on one line.

    >>> print(command("resume", Path("my runs/a"), "--epochs", 4))
    plainfit resume 'my runs/a' --epochs 4
    >>> print(command("report", Path("-b\n")))
    plainfit report $'./-b\x0a'
    """
    return " ".join(["plainfit", *map(quoted, words)])


def quoted(word: str | int | Path) -> str:
    text = str(word)
    if isinstance(word, Path) and text.startswith("-"):  # which would be an option
        text = f"./{text}"
    if text.isprintable():
        return shlex.quote(text)
    try:
        content = text.encode("utf-8", "surrogateescape")  # a name of a file may be no text
    except UnicodeEncodeError:  # it is no name of a file either
        content = text.encode("utf-8", "replace")
    return "$'" + "".join(map(escaped, content)) + "'"


def escaped(byte: int) -> str:
    is_plain = 32 <= byte < 127 and byte not in b"'\\"
    return chr(byte) if is_plain else f"\\x{byte:02x}"

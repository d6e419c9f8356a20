"""The values of a column: numbers, texts or dates, whatever type Arrow holds them in."""

import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from plainfit.common.errors import DataError, quoted, shortened
from plainfit.data.alone import GAPS, ISO, NUMBER, OLDEST, SPACES, date, date_parts, number
from plainfit.data.tables.reading import without_gaps

LIKE_DATES = re.compile(r"(?=.*\d\d)\w+[-./ ]\w+(,?[-./ ]\w+)?([T ]\d{1,2}:.+)?")
DAYS = (
    "%Y/%m/%d", "%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y", "%d-%m-%Y", "%m-%d-%Y", "%d.%m.%y", "%m/%d/%y",
    "%d/%m/%y", "%d-%b-%Y", "%d-%b-%y", "%d %b %Y", "%d %B %Y", "%b %d, %Y", "%B %d, %Y", "%Y-%m",
)  # fmt: skip
TIMES = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p")
DATES = tuple(day + time for day in DAYS for time in TIMES)  # or ISO 8601


class Texts(NamedTuple):
    """A column of text: for each row, the place of its text in `names`; a gap is an empty text."""

    codes: NDArray[np.int64]
    names: list[str]


class Dates(NamedTuple):
    """A column of dates as numbers, and how they are written; a gap is NaN in each."""

    parts: dict[str, NDArray[Any]]
    format: str


Values = NDArray[Any] | Texts | Dates


def values_of(name: str, column: Any, kind: str = "", decimal: str | None = None) -> Values:
    """Return a column as its own kind or as `kind`: number, text, or a date in that format.

    A gap among numbers is NaN.
    """
    import pyarrow
    from pyarrow import types

    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if types.is_large_string(column.type) or types.is_string_view(column.type):
        column = column.cast(pyarrow.string())
    is_date = types.is_date(column.type) or types.is_timestamp(column.type)
    if kind == "text" or (is_text(column) and not kind):
        texts = texts_in(column)
        return texts if kind else found_in(texts, decimal or ".")
    if is_date and kind in ("", ISO, *DATES):
        codes, distinct = encoded(column.cast(pyarrow.timestamp("us"), safe=False))
        return dates_of(codes, distinct.to_numpy(zero_copy_only=False), ISO)
    if kind in (ISO, *DATES):
        return read_dates(name, column, kind)
    if is_text(column):
        return read_numbers(name, column, decimal or ".")
    return numbers_in(name, column, kind)


def is_text(column: Any) -> bool:
    return str(column.type) in ("string", "large_string", "string_view")


def numbers_in(name: str, column: Any, kind: str = "") -> NDArray[Any]:
    import pyarrow
    from pyarrow import types

    found, drop = column.type, f"--drop {quoted(name)}"
    if types.is_null(found) and kind:
        return np.full(len(column), np.nan)
    if types.is_boolean(found):
        column = column.cast(pyarrow.int8())
    elif types.is_null(found):
        raise DataError(f"column {name!r} has no values: leave it out by {drop}")
    elif not (types.is_integer(found) or types.is_floating(found) or types.is_decimal(found)):
        wanted = "numbers, as in the training" if kind else "numbers, text, dates or true/false"
        keep = f", keep it by --categorical {quoted(name)}" if types.is_time(found) else ""
        raise DataError(
            f"column {name!r} must be {wanted}, and is {found}: convert it"
            f"{'' if kind else f'{keep}, or leave it out by {drop}'}"
        )
    if types.is_integer(column.type) and not column.null_count:
        whole = np.uint64 if types.is_uint64(found) else np.int64
        return np.asarray(column.to_numpy()).astype(whole)
    numbers = np.asarray(column.cast(pyarrow.float64(), safe=False).to_numpy())
    if (infinite := np.isinf(numbers)).any():
        raise DataError(
            f"numbers must be finite, and column {name!r} has an infinite one in data row "
            f"{int(infinite.argmax()) + 1}; in a text file --na inf,-inf takes it for a gap"
        )
    return numbers


def texts_in(column: Any) -> Texts:
    import pyarrow

    codes, names = encoded(column.cast(pyarrow.string()).fill_null(""))
    return Texts(codes, names.to_pylist())


def encoded(column: Any) -> tuple[NDArray[np.int64], Any]:
    """Return the distinct values of a column, null among them, and which one each row has."""
    found = column.dictionary_encode("encode").combine_chunks()
    return found.indices.to_numpy().astype(np.int64), found.dictionary


def read_numbers(name: str, column: Any, decimal: str) -> NDArray[np.float64]:
    codes, names = texts_in(column)
    numbers = [number(text, decimal) for text in names]
    if None in numbers:
        wrong = np.array([each is None for each in numbers])[codes].nonzero()[0].tolist()
        raise DataError(f"column {name!r} must be numbers: {named_rows(column, wrong)}")
    return np.array(numbers)[codes]


def is_number(text: str) -> bool:
    return NUMBER.fullmatch(text) is not None


def named_rows(column: Any, wrong: list[int]) -> str:
    named = shortened([f"{column[at].as_py()!r} in data row {at + 1}" for at in wrong])
    remedy = "mend them, or name texts that mean a gap by --na"
    return f"{len(wrong)} of {len(column)} are not, {named}; {remedy}"


def found_in(texts: Texts, decimal: str) -> Values:
    """Return texts as dates, or as numbers such as $1,234.50, if all but the gaps are some."""
    if dates := dates_in(texts):
        return dates
    given = [name.strip() for name in texts.names if name.strip() not in GAPS]
    numbers = [number(name, decimal) for name in texts.names]
    if None in numbers or any(map(str.isalpha, given)):
        return texts
    digits = re.compile(rf"[-+\u2212().,{SPACES}0-9]")
    signs = {digits.sub("", name) for name in given} - {""}
    is_clear = signs or any({decimal, *SPACES[1:]} & {*name} for name in given)
    if len(signs) > 1 or not is_clear or all(map(is_number, given)):
        return texts  # 1,234 may be 1.234, and plain numbers are meant as texts
    return np.array(numbers)[texts.codes]


def dates_in(texts: Texts) -> Dates | None:
    """Return texts as dates, if all but the gaps are written in one of the formats."""
    import pyarrow

    first = next((name.strip() for name in texts.names if name.strip() not in GAPS), "")
    if not (likely := date_formats(first)):
        return None
    distinct = without_gaps(pyarrow.array(map(str.strip, texts.names), pyarrow.string()))
    given = np.asarray(distinct.is_valid())
    found = {form: parsed(distinct, form) for form in likely}
    fitting = [form for form, dates in found.items() if not np.isnat(dates[given]).any()]
    return dates_of(texts.codes, found[fitting[0]], fitting[0]) if len(fitting) == 1 else None


def date_formats(text: str, known: Sequence[str] = (ISO, *DATES)) -> list[str]:
    """Return the formats of dates that a text may be written in.

    >>> date_formats("05/02/26")
    ['%m/%d/%y', '%d/%m/%y']
    """
    return [form for form in known if LIKE_DATES.fullmatch(text) and date(text, form) is not None]


def dates_of(codes: NDArray[np.int64], distinct: NDArray[np.datetime64], form: str) -> Dates:
    return Dates({name: part[codes] for name, part in date_parts(distinct).items()}, form)


def read_dates(name: str, column: Any, form: str) -> Dates:
    import pyarrow
    from pyarrow import types

    if types.is_null(column.type):
        column = column.cast(pyarrow.string())
    if not types.is_string(column.type):
        raise DataError(f"column {name!r} must be dates, as in the training, and is {column.type}")
    texts = texts_in(column)
    distinct = without_gaps(pyarrow.array(map(str.strip, texts.names), pyarrow.string()))
    dates = parsed(distinct, form)
    wrong = (np.isnat(dates) & np.asarray(distinct.is_valid()))[texts.codes]
    if wrong.any():
        raise DataError(
            f"column {name!r} must be dates written as {form}, as in the training: "
            f"{named_rows(column, wrong.nonzero()[0].tolist())}"
        )
    return dates_of(texts.codes, dates, form)


def parsed(column: Any, form: str) -> NDArray[np.datetime64]:
    import pyarrow
    from pyarrow import compute

    if form == ISO:
        times = None
        for zone in (None, "UTC"):
            with suppress(pyarrow.ArrowInvalid):
                times = column.cast(pyarrow.timestamp("us", zone))
        if times is None:  # some are not, or have no zone, or are weeks
            return np.array([date(text, form) for text in column.to_pylist()], "M8[us]")
    else:
        times = compute.strptime(column, format=form, unit="us", error_is_null=True)
    dates = np.array(times.to_numpy(zero_copy_only=False))
    if form != ISO:  # Arrow takes February 31 for March 3
        for at in np.flatnonzero(date_parts(dates)["day"] <= 3).tolist():
            if not date_formats(column[at].as_py(), [form]):
                dates[at] = np.datetime64("NaT")
    dates[dates < np.datetime64(str(OLDEST))] = np.datetime64("NaT")
    return dates

"""The values of a column: numbers, texts or dates, whatever type Arrow holds them in."""

import re
from contextlib import suppress
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from plainfit.common.errors import DataError, shortened
from plainfit.data.tables.alone import date_parts
from plainfit.data.tables.reading import GAPS, without_gaps
from plainfit.data.targets import NUMBER

LIKE_DATES = re.compile(r"(?=.*\d\d)\w+[-./ ]\w+(,?[-./ ]\w+)?([T ]\d{1,2}:.+)?")
DAYS = (
    "%Y/%m/%d", "%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y", "%d-%m-%Y", "%m-%d-%Y", "%d.%m.%y", "%m/%d/%y",
    "%d/%m/%y", "%d-%b-%Y", "%d-%b-%y", "%d %b %Y", "%d %B %Y", "%b %d, %Y", "%B %d, %Y", "%Y-%m",
)  # fmt: skip
TIMES = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p")
DATES = tuple(day + time for day in DAYS for time in TIMES)  # or ISO 8601
OLDEST = np.datetime64("1000-01-01")  # before it, the year of a date has two digits
MINUS = "\u2212"
SIGN = "(USD|EUR|GBP|CHF|[%$€£¥])?"
SPACES = " '\u00a0\u202f"  # between thousands
WRITTEN = {  # by the decimal sign: numbers with a currency, percent or thousands
    point: rf"[-+{MINUS}]?{SIGN} ?[-+{MINUS}]?([0-9]+|[0-9]{{1,3}}([{mark}{SPACES}][0-9]{{3}})+)"
    rf"([{point}][0-9]+)?[{SPACES}]?{SIGN}"
    for point, mark in (".,", ",.")
}
WRITTEN = {point: rf"{form}|\({form}\)" for point, form in WRITTEN.items()}  # (1.5) is -1.5
ISO = "ISO 8601"


class Texts(NamedTuple):
    """A column of text: for each row, the place of its text in `names`; a gap is an empty text."""

    codes: NDArray[np.int64]
    names: list[str]


class Dates(NamedTuple):
    """A column of dates as numbers, and how they are written; a gap is NaN in each."""

    parts: dict[str, NDArray[Any]]
    format: str


Values = NDArray[Any] | Texts | Dates


def values_of(name: str, column: Any, kind: str = "", decimal: str = ".") -> Values:
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
        return texts if kind else found_in(texts, decimal)
    if is_date and kind in ("", ISO, *DATES):
        codes, distinct = encoded(column.cast(pyarrow.timestamp("us"), safe=False))
        return dates_of(codes, distinct.to_numpy(zero_copy_only=False), ISO)
    if kind in (ISO, *DATES):
        return read_dates(name, column, kind)
    if is_text(column):
        column = read_numbers(name, column, decimal)
    return numbers_in(name, column, kind)


def is_text(column: Any) -> bool:
    return str(column.type) in ("string", "large_string", "string_view")


def numbers_in(name: str, column: Any, kind: str = "") -> NDArray[Any]:
    import pyarrow
    from pyarrow import types

    found = column.type
    if types.is_null(found) and kind:
        return np.full(len(column), np.nan)
    if types.is_boolean(found):
        column = column.cast(pyarrow.int8())
    elif types.is_null(found):
        raise DataError(f"column {name!r} has no values: leave it out by --drop {name}")
    elif not (types.is_integer(found) or types.is_floating(found) or types.is_decimal(found)):
        wanted = "numbers, as in the training" if kind else "numbers, text, dates or true/false"
        raise DataError(
            f"column {name!r} must be {wanted}, and is {found}: convert it"
            f"{'' if kind else f', or leave it out by --drop {name}'}"
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


def read_numbers(name: str, column: Any, decimal: str) -> Any:
    """Return texts as numbers."""
    import pyarrow
    from pyarrow import compute

    texts = without_gaps(compute.utf8_trim_whitespace(column))
    texts = compute.replace_substring(texts, MINUS, "-")
    texts = compute.replace_substring_regex(texts, r"^\((.*)\)$", r"-\1")
    written = compute.match_substring_regex(texts, f"^({WRITTEN[decimal]})$")
    digits = compute.replace_substring_regex(texts, rf"[^-+0-9{decimal}]", "")
    texts = compute.if_else(written, digits, texts)
    if decimal == ",":
        texts = compute.replace_substring(texts, ",", ".")
    try:
        return texts.cast(pyarrow.float64())
    except pyarrow.ArrowInvalid:
        wrong = [at for at, text in enumerate(texts.to_pylist()) if not is_number(text or "0")]
        raise DataError(f"column {name!r} must be numbers: {named_rows(column, wrong)}") from None


def is_number(text: str) -> bool:
    return NUMBER.fullmatch(text) is not None


def named_rows(column: Any, wrong: list[int]) -> str:
    named = shortened([f"{column[at].as_py()!r} in data row {at + 1}" for at in wrong])
    return f"{len(wrong)} of {len(column)} are not, {named}"


def found_in(texts: Texts, decimal: str) -> Values:
    """Return texts as dates, or as numbers such as $1,234.50, if all but the gaps are some."""
    import pyarrow

    if dates := dates_in(texts):
        return dates
    gaps = {*GAPS}
    given = [name for name in texts.names if name.strip() not in gaps]
    written = re.compile(WRITTEN[decimal])
    if not all(written.fullmatch(name.strip()) for name in given):
        return texts
    signs = {re.sub(rf"[-+{MINUS}().,{SPACES}0-9]", "", name) for name in given} - {""}
    is_clear = signs or any({decimal, *SPACES[1:]} & {*name} for name in given)
    if len(signs) > 1 or not is_clear or all(map(is_number, given)):
        return texts  # 1,234 may be 1.234, and plain numbers are meant as texts
    return numbers_in("", read_numbers("", pyarrow.array(texts.names), decimal))[texts.codes]


def dates_in(texts: Texts) -> Dates | None:
    """Return texts as dates, if all but the gaps are written in one of the formats."""
    import pyarrow

    first = next((name for name in texts.names if name not in GAPS), "")
    if not (likely := date_formats(first)):
        return None
    distinct = without_gaps(pyarrow.array(texts.names, pyarrow.string()))
    fitting = [form for form in likely if not unread(distinct, form).any()]
    if len(fitting) != 1:
        return None
    return dates_of(texts.codes, parsed(distinct, fitting[0]), fitting[0])


def date_formats(text: str) -> list[str]:
    """Return the formats of dates that a text may be written in.

    >>> date_formats("05/02/26")
    ['%m/%d/%y', '%d/%m/%y']
    """
    found = []
    for form in (ISO, *DATES) if LIKE_DATES.fullmatch(text) else ():
        with suppress(ValueError):
            datetime.fromisoformat(text) if form == ISO else datetime.strptime(text, form)
            found.append(form)
    return found


def dates_of(codes: NDArray[np.int64], distinct: NDArray[np.datetime64], form: str) -> Dates:
    return Dates({name: part[codes] for name, part in date_parts(distinct).items()}, form)


def read_dates(name: str, column: Any, form: str) -> Dates:
    """Return texts as dates written in this format."""
    import pyarrow
    from pyarrow import types

    if types.is_null(column.type):
        column = column.cast(pyarrow.string())
    if not types.is_string(column.type):
        raise DataError(f"column {name!r} must be dates, as in the training, and is {column.type}")
    texts = texts_in(column)
    distinct = without_gaps(pyarrow.array(texts.names, pyarrow.string()))
    wrong = unread(distinct, form)[texts.codes]
    if wrong.any():
        raise DataError(
            f"column {name!r} must be dates written as {form}, as in the training: "
            f"{named_rows(column, wrong.nonzero()[0].tolist())}"
        )
    return dates_of(texts.codes, parsed(distinct, form), form)


def parsed(column: Any, form: str) -> NDArray[np.datetime64]:
    import pyarrow
    from pyarrow import compute

    if form == ISO:
        times = pyarrow.nulls(len(column), pyarrow.timestamp("us"))  # if some are not
        for zone in (None, "UTC"):
            with suppress(pyarrow.ArrowInvalid):
                times = column.cast(pyarrow.timestamp("us", zone))
    else:
        times = compute.strptime(column, format=form, unit="us", error_is_null=True)
    dates = np.array(times.to_numpy(zero_copy_only=False))
    dates[dates < OLDEST] = np.datetime64("NaT")
    return dates


def unread(column: Any, form: str) -> NDArray[np.bool_]:
    """Return which texts are no dates of this format, besides gaps."""
    return np.asarray(np.isnat(parsed(column, form)) & np.asarray(column.is_valid()))

"""The inputs of an exported model, from the columns of a table as in its training.

plainfit writes this file beside the model, as `prepare.py`. It needs NumPy only, and for the
tokens of a pretrained model the package tokenizers.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np

ISO, OLDEST = "ISO 8601", 1000  # before that, the year of a date has two digits
GAPS = {
    "", "?", "-", "--", ".", "NA", "N/A", "n/a", "N.A.", "#N/A", "#N/A N/A", "#NA", "<NA>", "NULL",
    "null", "None", "none", "NaN", "nan", "-NaN", "-nan", "1.#IND", "-1.#IND", "1.#QNAN",
    "-1.#QNAN", "#DIV/0!", "#VALUE!", "#REF!", "#NAME?", "#NUM!", "#NULL!", "na", "N/a", "n.a.",
    "NONE", "Null", "(null)", "nil", "NaT", "\\N", "..", "...",
}  # fmt: skip
NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]{1,3})?")
SIGN = "(USD|EUR|GBP|CHF|[%$€£¥])?"
OTHERS = re.compile("[^-+.,0-9]")
SPACES = " '\u2019\u00a0\u2009\u202f"  # between thousands
WRITTEN = {  # by the decimal sign: numbers with a currency, percent or thousands
    point: re.compile(
        rf"[-+]?{SIGN} ?[-+]?([0-9]+|[0-9]{{1,3}}([{mark}{SPACES}][0-9]{{3}})+)"
        rf"([{point}][0-9]+)?[{SPACES}]?{SIGN}"
    )
    for point, mark in (".,", ",.")
}


def prepare(table: Any, preprocessing: Mapping[str, Any]) -> Any:
    """Return float32 inputs, shape (rows, inputs), or int64 numbers of words of a text.

    `table[name]` is a column of a data frame or a dict: values, or texts as in a file, which are
    read as in the training. `preprocessing` is among the facts in the model's file.
    """
    inputs: list[Any] = []
    for name, made in preprocessing["columns"].items():
        column = table[name]
        if np.asarray(column).dtype.kind == "M":
            column = np.asarray(column, "M8[us]")
        values = np.asarray(column, object).tolist()
        values = [None if is_gap(value, made.get("na", ())) else value for value in values]
        if made.keys() & {"length", "categories"}:
            texts = ["" if value is None else str(value) for value in values]
            if "length" in made:
                return text_numbers(texts, made)
            if "embedded" in made:
                codes = {text: code for code, text in enumerate(made["categories"], 1)}
                inputs.append(np.array([codes.get(text, 0) for text in texts]))
            else:
                inputs += [np.array(texts, object) == each for each in made["categories"]]
            continue
        form, sign = made.get("format"), made.get("decimal", ".")
        read = partial(date, form=form) if form else partial(number, decimal=sign)
        found: list[Any] = [read(value) for value in values]
        if None in found:
            at = found.index(None)
            what = f"dates written as {form}" if form else "numbers"
            raise ValueError(f"column {name!r} must be {what}, got {values[at]!r} in row {at}")
        parts, learned = {"": np.array(found)}, {"": made}
        if form:
            parts, learned = date_parts(np.array(found, "M8[us]")), made["date"]
        gaps = np.isnan(next(iter(parts.values())))
        for part, facts in learned.items():
            if gaps.any() and "fill" not in facts:
                raise ValueError(f"column {name!r} must have a value in each row")
            filled = np.where(gaps, facts["fill"], parts[part]) if gaps.any() else parts[part]
            inputs.append((filled - facts["mean"]) / (facts["std"] or np.inf))
        inputs += [gaps] if made.get("marked") else []
    rows = np.stack(inputs, axis=1, dtype=np.float32, casting="same_kind")
    if not np.isfinite(rows).all():
        raise ValueError("numbers must be finite as float32 (below 3.4e38) when standardised")
    return rows


def is_gap(value: Any, own: Sequence[str]) -> bool:
    """Return whether a value is missing, or among the user's `own` texts for a gap."""
    text = str(value)
    return text.strip() in own or text in ({""} if isinstance(value, str) else GAPS)


def number(value: Any, decimal: str = ".") -> float | None:
    """Return a value as a number: NaN for a gap, and None for what is no number.

    >>> [number(text) for text in ("$1,234.50", "(5)", "5%", "true", "?", "5 kg")]
    [1234.5, -5.0, 5.0, 1.0, nan, None]
    """
    if not isinstance(value, str):
        return float("nan" if value is None else value)
    text = value.strip().replace("\u2212", "-")
    if text in GAPS:
        return float("nan")
    if text.lower() in ("true", "false"):
        return float(text.lower() == "true")
    if text[0] + text[-1] == "()":
        text = f"-{text[1:-1]}"
    if WRITTEN[decimal].fullmatch(text):
        text = OTHERS.sub("", text).replace(",.".replace(decimal, ""), "")
    text = text.replace(decimal, ".")
    return float(text) if NUMBER.fullmatch(text) else None


def date(value: Any, form: str) -> Any:
    """Return a value as a date in UTC: NaT for a gap, and None for what is no such date."""
    found = value
    if isinstance(value, str):
        text = value.strip()
        if text in GAPS:
            return np.datetime64("NaT")
        try:
            found = datetime.fromisoformat(text) if form == ISO else datetime.strptime(text, form)
        except ValueError:
            return None
        if found.year < OLDEST:
            return None
    if getattr(found, "tzinfo", None) is not None:
        found = found.astimezone(UTC).replace(tzinfo=None)
    return np.datetime64(found, "us")


def text_numbers(texts: Sequence[str], made: Mapping[str, Any]) -> Any:
    if "tokenizer" in made:
        from tokenizers import Tokenizer

        rows = Tokenizer.from_str(made["tokenizer"]).encode_batch(texts)
        return np.array([row.ids for row in rows], np.int64).reshape(-1, made["length"])
    return word_numbers([words_in(text, made["pattern"]) for text in texts], made)


def words_in(text: str, pattern: str) -> list[str]:
    return re.findall(pattern, unicodedata.normalize("NFKC", text).lower())


def word_numbers(rows: Sequence[Sequence[str]], made: Mapping[str, Any]) -> Any:
    """Return (rows, length) numbers: 0 fills up a row, 1 is for an unknown word, or for no text."""
    numbers = {word: number for number, word in enumerate(made["vocabulary"], 2)}
    found = np.zeros((len(rows), made["length"]), np.int64)
    for row, words in enumerate(rows):
        known = [numbers.get(word, 1) for word in words[: made["length"]]] or [1]
        found[row, : len(known)] = known
    return found


def date_parts(dates: Any) -> dict[str, Any]:
    """Return the parts of dates as numbers; Monday is 0, and `days` are those since 1970."""
    gaps, days, first = np.isnat(dates), dates.astype("M8[D]"), dates.astype("M8[M]")
    months, since = first.astype(np.int64), dates.astype(np.int64) / 86_400e6
    parts = {
        "year": months // 12 + 1970,
        "month": months % 12 + 1,
        "day": (days - first).astype(np.int64) + 1,
        "weekday": (days.astype(np.int64) + 3) % 7,
        "hour": (since - np.floor(since)) * 24,
        "days": since,
    }
    return {n: np.where(gaps, np.nan, part) if gaps.any() else part for n, part in parts.items()}

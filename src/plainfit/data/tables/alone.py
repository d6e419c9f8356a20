"""The inputs of an exported model, from the columns of a table as in its training.

plainfit writes this file beside the model, as `prepare.py`. It needs NumPy only, and for the
tokens of a pretrained model the package tokenizers.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np


def prepare(table: Any, preprocessing: Mapping[str, Any]) -> Any:
    """Return float32 inputs, shape (rows, inputs), or int64 numbers of words of a text.

    `table[name]` is a column of a data frame or a dict: text where the training had categories,
    dates as they were written, numbers as such, not as "$1,234.50". A gap is NaN, None or an empty
    text, and no "?". `preprocessing` is among the facts in the model's file.
    """
    inputs: list[Any] = []
    for name, made in preprocessing["columns"].items():
        column = np.asarray(table[name], object)
        gaps = np.array([value in ("", None) or value != value for value in column])
        given: Any = np.where(gaps, np.array(None), column)
        if "length" in made:
            return text_numbers(np.where(gaps, "", column).tolist(), made)
        if "categories" in made:
            texts = np.where(gaps, "", column).astype(str)
            if "embedded" in made:
                codes = {text: code for code, text in enumerate(made["categories"], 1)}
                inputs.append(np.array([codes.get(text, 0) for text in texts.tolist()]))
            else:
                inputs += [texts == category for category in made["categories"]]
            continue
        if "date" in made:
            form = made["format"]
            if form != "ISO 8601":
                given = [text and datetime.strptime(text, form) for text in given]
            parts, learned = date_parts(np.array(given, "M8[us]")), made["date"]
        else:
            parts, learned = {"": given.astype(np.float64)}, {"": made}
        for part, stats in learned.items():
            values = np.where(gaps, stats["fill"], parts[part]) if gaps.any() else parts[part]
            inputs.append((values - stats["mean"]) / (stats["std"] or np.inf))
        inputs += [gaps] if made.get("marked") else []
    return np.stack(inputs, axis=1, dtype=np.float32, casting="same_kind")


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

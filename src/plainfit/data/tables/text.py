"""A column of text as the numbers of its words; the words are those of the training rows."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plainfit.common.errors import DataError
from plainfit.data.tables.alone import word_numbers, words_in
from plainfit.data.tables.reading import Table
from plainfit.data.tables.values import Texts, values_of

# Chinese, Japanese, Thai, Lao, Burmese and Khmer have no spaces: each sign is a word. Of the
# scripts of India, marks belong to the words, which `\w` leaves out.
SIGNS = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
SIGNS += r"\U00020000-\U000323af"
MARKS = r"\u0900-\u0963\u0966-\u0dff"
PATTERN = rf"(?:[^\W{SIGNS}]|[{MARKS}])+|\S"
MOST_WORDS, LEAST_OFTEN = 20_000, 2  # in the vocabulary; in the training rows
MOST_LENGTH, WHOLE = 256, 95  # words of a row; percent of the training rows that are not cut


def learn_text(
    table: Table, name: str, train_rows: NDArray[np.int64]
) -> tuple[dict[str, Any], NDArray[np.int64]]:
    """Return how a column becomes numbers, by its name, and those of all rows; note the choices."""
    values = values_of(name, table.columns[name], "text")
    assert isinstance(values, Texts)
    words = [words_in(text, PATTERN) for text in values.names]
    train = values.codes[train_rows]
    counts: Counter[str] = Counter()
    for code in train.tolist():
        counts.update(words[code])
    kept = sorted((-n, word) for word, n in counts.items() if n >= LEAST_OFTEN)[:MOST_WORDS]
    if not kept:
        raise DataError(
            f"{table.path}: column {name!r} must have words that occur {LEAST_OFTEN} times or more "
            f"in the {len(train)} training rows, and has none; is it text?"
        )
    lengths = np.array([len(found) for found in words])[train]
    length = int(np.percentile(lengths, WHOLE, method="higher").clip(1, MOST_LENGTH))
    made = {"vocabulary": [word for _, word in kept], "length": length, "pattern": PATTERN}
    numbers = word_numbers(words, made)[values.codes]
    cut, others = int((lengths > length).sum()), np.delete(numbers, train_rows, axis=0)
    table.notes.append(
        f"column {name!r} is {described_text(made)}; {cut} of {len(train)} training rows are cut, "
        f"and {unknown_share(others)} of the other rows' words are unknown"
    )
    return {name: made}, numbers


def numbers_of(values: Texts, made: Mapping[str, Any]) -> NDArray[np.int64]:
    words = [words_in(text, made["pattern"]) for text in values.names]
    numbers: NDArray[np.int64] = word_numbers(words, made)[values.codes]
    return numbers


def unknown_share(numbers: NDArray[np.int64]) -> str:
    return f"{(numbers == 1).sum() / max(1, (numbers > 0).sum()):.1%}"


def described_text(made: Mapping[str, Any]) -> str:
    """
    >>> described_text({"vocabulary": ["a", "."], "length": 80})
    'text: the first 80 words of each row; 2 words are known'
    """
    known = len(made["vocabulary"])
    return f"text: the first {made['length']} words of each row; {known:,} words are known"

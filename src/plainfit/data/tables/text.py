"""A column of text as the numbers of its words or tokens.

The words are those of the training rows, the tokens those of a tokenizer (of Hugging Face's
`tokenizers`) that came with a pretrained model.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plainfit.common.errors import DataError, raised_as
from plainfit.data.alone import text_numbers, word_numbers, words_in
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
    table: Table, name: str, train_rows: NDArray[np.int64], tokenizer: str | None = None
) -> tuple[dict[str, Any], NDArray[np.int64]]:
    """Return how a column becomes numbers, by its name, and those of all rows; note the choices.

    With the content of a tokenizer.json its parts are tokens, else words.
    """
    values = values_of(name, table.columns[name], "text")
    assert isinstance(values, Texts)
    train = values.codes[train_rows]
    if tokenizer is None:
        made, lengths, numbers = learn_words(table, name, values, train)
    else:
        made, lengths, numbers = learn_tokens(values, train, tokenizer)
    numbers = numbers[values.codes]
    cut, others = int((lengths > made["length"]).sum()), np.delete(numbers, train_rows, axis=0)
    unknown = f", and {unknown_share(others)} of the other rows' words are unknown"
    table.notes.append(
        f"column {name!r} is {described_text(made)}; {cut} of {len(train)} training rows are cut"
        f"{unknown * (tokenizer is None)}"
    )
    return {name: made}, numbers


def learn_words(
    table: Table, name: str, values: Texts, train: NDArray[np.int64]
) -> tuple[dict[str, Any], NDArray[np.int64], NDArray[np.int64]]:
    words = [words_in(text, PATTERN) for text in values.names]
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
    vocabulary = [word for _, word in kept]
    made = {"vocabulary": vocabulary, "length": usual_length(lengths), "pattern": PATTERN}
    return made, lengths, word_numbers(words, made)


@raised_as(DataError, "a tokenizer must be a tokenizer.json that the package tokenizers reads")
def learn_tokens(
    values: Texts, train: NDArray[np.int64], tokenizer: str
) -> tuple[dict[str, Any], NDArray[np.int64], NDArray[np.int64]]:
    from tokenizers import Tokenizer

    tokens = Tokenizer.from_str(tokenizer)
    limits, padding = tokens.truncation or {}, tokens.padding or {}
    tokens.no_truncation()
    tokens.no_padding()
    lengths = np.array([len(row.ids) for row in tokens.encode_batch(values.names)])[train]
    length = usual_length(lengths, limits.get("max_length", MOST_LENGTH))
    tokens.enable_truncation(**limits | {"max_length": length})
    tokens.enable_padding(**padding | {"length": length})
    made = {"tokenizer": tokens.to_str(), "length": length, "size": tokens.get_vocab_size()}
    return made, lengths, text_numbers(values.names, made)


def usual_length(lengths: NDArray[np.int64], most: int = MOST_LENGTH) -> int:
    return int(np.percentile(lengths, WHOLE, method="higher").clip(1, min(most, MOST_LENGTH)))


def readable_text(numbers: list[int], made: Mapping[str, Any]) -> str:
    if "tokenizer" in made:
        from tokenizers import Tokenizer

        return str(Tokenizer.from_str(made["tokenizer"]).decode(numbers))
    words = ["", "(unknown)", *made["vocabulary"]]
    return " ".join(words[number] for number in numbers).strip()


def unknown_share(numbers: NDArray[np.int64]) -> str:
    return f"{(numbers == 1).sum() / max(1, (numbers > 0).sum()):.1%}"


def described_text(made: Mapping[str, Any]) -> str:
    """
    >>> described_text({"vocabulary": ["a", "."], "length": 80})
    'text: the first 80 words of each row; 2 words are known'
    """
    parts, known = "words", len(made.get("vocabulary", ()))
    if "tokenizer" in made:
        parts, known = "tokens", made["size"]
    return f"text: the first {made['length']} {parts} of each row; {known:,} {parts} are known"

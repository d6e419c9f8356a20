"""A rung's program to look at: its words by kind, and what it changes, with the words marked."""

import builtins
import difflib
import io
import keyword
import re
import tokenize
from collections.abc import Iterator
from itertools import accumulate, groupby
from typing import NamedTuple

from plainfit.ladder.catalog import LESSON, Rung

KINDS = {tokenize.COMMENT: "comment", tokenize.STRING: "string", tokenize.NUMBER: "number"}
READING = "# --- Reading the data"  # begins what is the same in every rung
ALIKE = 0.6  # words in common from which on two lines are versions of one


class Span(NamedTuple):
    """A piece of a line."""

    kind: str  # keyword, builtin, name (which is defined here), string, number, comment or nothing
    is_new: bool  # one of the words that changed
    text: str


class Change(NamedTuple):
    """A line of what changed: the numbers of the line before and after, and `-`, `+` or nothing."""

    old: int | None
    new: int | None
    sign: str
    spans: list[Span]


def kinds(source: str) -> list[list[str]]:
    """Return the kind of each character, for each line."""
    found = [[""] * len(line) for line in source.splitlines()]
    defined = False
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        kind = KINDS.get(token.type, "")
        if token.type == tokenize.NAME:
            kind = "keyword" if keyword.iskeyword(token.string) else ""
            kind = kind or ("name" if defined else "")
            kind = kind or ("builtin" if hasattr(builtins, token.string) else "")
            defined = token.string in ("def", "class")
        elif tokenize.tok_name[token.type].startswith("FSTRING"):  # from Python 3.12 on
            kind = "string"
        for row in range(token.start[0], token.end[0] + 1):
            if kind and row <= len(found):
                start = token.start[1] if row == token.start[0] else 0
                end = token.end[1] if row == token.end[0] else len(found[row - 1])
                found[row - 1][start:end] = [kind] * len(found[row - 1][start:end])
    return found


def spans(line: str, of: list[str], changed: frozenset[int] = frozenset()) -> list[Span]:
    """Return a line in pieces of one kind each, by the kind of each character."""
    groups = groupby(range(len(line)), lambda at: (of[at], at in changed))
    return [Span(*key, "".join(line[at] for at in group)) for key, group in groups]


def listing(source: str) -> list[list[Span]]:
    """Return the lines of a program.

    >>> [span.kind for span in listing("def f(x): return 1")[0] if span.kind]
    ['keyword', 'name', 'keyword', 'number']
    """
    return [spans(*pair) for pair in zip(source.splitlines(), kinds(source), strict=True)]


def parts(rung: Rung) -> list[tuple[str, int, list[list[Span]]]]:
    """Return a program in parts: their name, the number of their first line, and their lines."""
    lines = listing(rung.source)
    texts = rung.source.splitlines()
    lesson = texts.index(LESSON)
    reading = next((at for at, text in enumerate(texts) if text.startswith(READING)), lesson)
    cuts = {"imports": (0, reading), "reading": (reading, lesson), "lesson": (lesson, len(lines))}
    return [(name, at + 1, lines[at:end]) for name, (at, end) in cuts.items() if at < end]


def changes(before: Rung, after: Rung, around: int = 2) -> Iterator[list[Change]]:
    """Yield groups of lines that changed, with some around them; docstrings are left out."""
    sources = before.source, after.source
    starts = [source.index('"""\n\n') + 5 for source in sources]
    skipped = [source[:start].count("\n") for source, start in zip(sources, starts, strict=True)]
    old, new = (s[start:].splitlines() for s, start in zip(sources, starts, strict=True))
    old_kinds, new_kinds = (kinds(s)[n:] for s, n in zip(sources, skipped, strict=True))
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    for group in matcher.get_grouped_opcodes(around):
        rows = []
        for kind, i, i_end, j, j_end in group:
            gone, come = marked(old[i:i_end], new[j:j_end]) if kind == "replace" else ({}, {})
            if kind == "equal":
                for at in range(i_end - i):
                    numbers = skipped[0] + i + at + 1, skipped[1] + j + at + 1
                    rows.append(Change(*numbers, "", spans(new[j + at], new_kinds[j + at])))
                continue
            for at in range(i, i_end):
                pieces = spans(old[at], old_kinds[at], gone.get(at - i, frozenset()))
                rows.append(Change(skipped[0] + at + 1, None, "-", pieces))
            for at in range(j, j_end):
                pieces = spans(new[at], new_kinds[at], come.get(at - j, frozenset()))
                rows.append(Change(None, skipped[1] + at + 1, "+", pieces))
        yield rows


Marks = dict[int, frozenset[int]]


def marked(old: list[str], new: list[str]) -> tuple[Marks, Marks]:
    """Return, for lines that are versions of one another, the places of what changed in each."""
    words = [[re.findall(r"\w+|\s+|.", line) for line in lines] for lines in (old, new)]
    pairs = [
        (compared(a, b).ratio(), i, j)
        for i, a in enumerate(words[0])
        for j, b in enumerate(words[1])
    ]
    gone: Marks = {}
    come: Marks = {}
    for ratio, i, j in sorted(pairs, key=lambda pair: (-pair[0], abs(pair[1] - pair[2]))):
        if ratio >= ALIKE and i not in gone and j not in come:
            gone[i], come[j] = different(words[0][i], words[1][j])
    return gone, come


def different(a: list[str], b: list[str]) -> tuple[frozenset[int], frozenset[int]]:
    codes = compared(a, b).get_opcodes()
    found = []
    for words, sides in (
        (a, [code[:3] for code in codes]),
        (b, [code[:1] + code[3:] for code in codes]),
    ):
        ends = [0, *accumulate(map(len, words))]
        changed = (range(ends[i], ends[end]) for kind, i, end in sides if kind != "equal")
        indent = len(words[0]) if words and words[0].isspace() else 0
        found.append(frozenset(at for places in changed for at in places if at >= indent))
    return found[0], found[1]


def compared(a: list[str], b: list[str]) -> difflib.SequenceMatcher[str]:
    return difflib.SequenceMatcher(str.isspace, a, b, autojunk=False)

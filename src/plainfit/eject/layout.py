"""The layout of generated lines: as ruff would have them, since ruff itself may not be there."""

import re
from collections.abc import Iterable

WIDTH = 100
OPENING, CLOSING = "([{", ")]}"


def indented(lines: Iterable[str], by: int = 4) -> list[str]:
    """Return lines moved to the right."""
    return [" " * by + line if line else line for line in lines]


def one_line(code: str) -> str:
    """Return a statement that may take several lines on one, without comments within it."""
    lines = [line.strip() for line in code.splitlines()]
    if len(lines) == 1:
        return lines[0]
    joined = " ".join(line for line in lines if not line.startswith("#"))
    joined = re.sub(r"([(\[{]) ", r"\1", joined)
    return re.sub(r",? ([)\]}])", r"\1", joined)


def wrapped(line: str) -> list[str]:
    """Return a line, broken at its outermost brackets where it is too long."""
    text = line.lstrip()
    indent = len(line) - len(text)
    split = None if len(line) <= WIDTH or text.startswith("#") else last_bracket(text)
    if split is None:
        return [line]
    start, end = split
    head, inner, tail = text[: start + 1], text[start + 1 : end], text[end:]
    if indent + 4 + len(inner) <= WIDTH and not is_call_of_many(inner):
        return [" " * indent + head, " " * (indent + 4) + inner, " " * indent + tail]
    items = at_commas(inner)
    comma = "" if len(items) == 1 and " for " in inner else ","  # a comprehension ends in none
    parts = [wrapped(" " * (indent + 4) + part + comma) for part in items]
    whole = " " * (indent + 4) + inner
    if len(whole) <= WIDTH:
        return [" " * indent + head, whole, " " * indent + tail]
    return [" " * indent + head, *(row for part in parts for row in part), " " * indent + tail]


def is_call_of_many(inner: str) -> bool:
    """Return whether the text ends in a comma, which keeps one item a line."""
    return inner.endswith(",")


def last_bracket(text: str) -> tuple[int, int] | None:
    """Return where the last outermost pair of brackets with something in it begins and ends."""
    pairs, stack, quote = [], [], ""
    for at, char in enumerate(text):
        if quote:
            quote = "" if char == quote and text[at - 1] != "\\" else quote
        elif char in "\"'":
            quote = char
        elif char == "#":
            break
        elif char in OPENING:
            stack.append(at)
        elif char in CLOSING and stack:
            start = stack.pop()
            if not stack and at > start + 1:
                pairs.append((start, at))
    return pairs[-1] if pairs else None


def at_commas(text: str) -> list[str]:
    """Return the items between the outermost commas of a text."""
    items, depth, quote, start = [], 0, "", 0
    for at, char in enumerate(text):
        if quote:
            quote = "" if char == quote and text[at - 1] != "\\" else quote
        elif char in "\"'":
            quote = char
        elif char in OPENING:
            depth += 1
        elif char in CLOSING:
            depth -= 1
        elif char == "," and depth == 0:
            items.append(text[start:at].strip())
            start = at + 1
    return [item for item in [*items, text[start:].strip()] if item]

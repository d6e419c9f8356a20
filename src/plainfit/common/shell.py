"""Commands that a user can copy to a shell."""

import shlex
from pathlib import Path


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

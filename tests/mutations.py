"""Damaged variants of valid inputs, a function of a seed: what the fuzzer in `fuzzing.py` feeds on.

Fields are overwritten at the places where formats keep what they are lenient about: most often
near the start and the end, where headers, magic numbers and directories stand.
"""

import random
import re
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence

HEAD, TAIL = 64, 160  # bytes at either end that are aimed at: an IDX header, a zip's directory
STEPS = (1, 1, 1, 1, 2, 2, 4)  # how many changes an input gets
LONGEST = 4096  # bytes that an input may grow by, so that duplicates of duplicates stay small
NUMBER = re.compile(rb"\d[\d.]*")
NUMBERS = (
    b"0", b"-1", b"00", b"1e3", b"255", b"256", b"65536", b"2147483648", b"4294967296", b"1e39",
    b"9223372036854775807", b"9223372036854775808", b"18446744073709551616", b"1e300", b"-1e308",
    b"1e400", b"5e-324", b"1099511627776", b"0x10", b"1_0", b"1.", b".5", b"1L", b"9" * 400,
)  # fmt: skip


def boundary_fields() -> list[bytes]:
    """Return the smallest and largest whole numbers of 1, 2, 4 and 8 bytes, in both orders."""
    fields = set()
    for width in (1, 2, 4, 8):
        top = 2 ** (8 * width)
        for value in (0, 1, 2, 16, top // 2 - 1, top // 2, top // 2 + 1, top - 2, top - 1, 2**40):
            for order in ("little", "big"):
                fields.add((value % top).to_bytes(width, order))
    return sorted(fields)


class Mutator:
    """Makes inputs out of a corpus.

    Args:
        corpus: valid inputs.
        tokens: what means something in this format.
        seed: of every choice.
    """

    def __init__(self, corpus: Sequence[bytes], tokens: Sequence[bytes], seed: int) -> None:
        self.corpus = corpus
        self.grown: list[bytes] = []  # mutations that whoever tries them found worth mutating on
        self.tokens = tokens
        self.rng = random.Random(seed)
        self.fields = boundary_fields()
        self.ways: tuple[Callable[[bytearray], None], ...] = (
            self.flip_bit, self.replace_byte, self.replace_byte, self.truncate, self.insert,
            self.insert_token, self.overwrite_token, self.overwrite_token, self.remove,
            self.duplicate, self.swap, self.overwrite_field, self.overwrite_field, self.splice,
            self.change_number, self.change_number,
        )  # fmt: skip

    def __iter__(self) -> Iterator[bytes]:
        while True:
            of_grown = self.grown and self.rng.random() < 0.3
            yield self.mutate(self.rng.choice(self.grown if of_grown else self.corpus))

    def mutate(self, content: bytes) -> bytes:
        """Return the content with a few changes."""
        data = bytearray(content)
        for _ in range(self.rng.choice(STEPS)):
            self.rng.choice(self.ways)(data)
        return bytes(data[: len(content) + LONGEST])

    def place(self, data: bytearray) -> int:
        """Return where to change something: near the start, near the end, or anywhere."""
        size, kind = len(data), self.rng.random()
        if kind < 0.35:
            return self.rng.randrange(min(size, HEAD) + 1)
        if kind < 0.5:
            return size - self.rng.randrange(min(size, TAIL) + 1)
        return self.rng.randrange(size + 1)

    def chunk(self, data: bytearray) -> slice:
        """Return a stretch of it, most often a short one."""
        start = self.place(data)
        return slice(start, start + self.rng.choice((1, 2, 4, 8, 16, 64, 256)))

    def flip_bit(self, data: bytearray) -> None:
        if (at := self.place(data)) < len(data):
            data[at] ^= 1 << self.rng.randrange(8)

    def replace_byte(self, data: bytearray) -> None:
        if (at := self.place(data)) < len(data):
            data[at] = self.rng.randrange(256)

    def truncate(self, data: bytearray) -> None:
        del data[self.place(data) :]

    def insert(self, data: bytearray) -> None:
        at = self.place(data)
        data[at:at] = self.rng.randbytes(self.rng.choice((1, 2, 4, 8, 33)))

    def insert_token(self, data: bytearray) -> None:
        at = self.place(data)
        data[at:at] = self.rng.choice(self.tokens)

    def overwrite_token(self, data: bytearray) -> None:
        token, at = self.rng.choice(self.tokens), self.place(data)
        data[at : at + len(token)] = token

    def remove(self, data: bytearray) -> None:
        del data[self.chunk(data)]

    def duplicate(self, data: bytearray) -> None:
        copy, at = data[self.chunk(data)], self.place(data)
        data[at:at] = copy * self.rng.choice((1, 1, 2, 10))

    def swap(self, data: bytearray) -> None:
        one, other = self.chunk(data), self.chunk(data)
        data[one], data[other] = data[other], data[one]

    def overwrite_field(self, data: bytearray) -> None:
        field, at = self.rng.choice(self.fields), self.place(data)
        data[at : at + len(field)] = field

    def splice(self, data: bytearray) -> None:
        other = bytearray(self.rng.choice(self.corpus))
        data[self.place(data) :] = other[self.place(other) :]

    def change_number(self, data: bytearray) -> None:
        """Write another number over one that stands there in digits, as in a table or a header."""
        found = NUMBER.search(data, self.place(data))
        if found:
            data[found.start() : found.end()] = self.rng.choice(NUMBERS)


def mend_png(content: bytes) -> bytes:
    """Return a PNG with the checksums of its chunks put right, so that more than they is tested."""
    mended, at = bytearray(content), 8
    while at + 12 <= len(mended):
        (size,) = struct.unpack_from(">I", mended, at)
        end = at + 8 + size
        if end + 4 > len(mended):
            break
        struct.pack_into(">I", mended, end, zlib.crc32(mended[at + 4 : end]))
        at = end + 4
    return bytes(mended)

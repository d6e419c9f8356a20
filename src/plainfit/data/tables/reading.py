"""From the file of a table to its columns, as Arrow holds them.

How a text file is written is guessed from its beginning; a guess that can change a number is noted.
"""

import codecs
import csv
import gzip
import io
import re
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from plainfit.common.errors import (
    ConfigError,
    DataError,
    near_miss,
    raised_as,
    shortened,
    unknown_name,
)
from plainfit.data.alone import GAPS, NUMBER, number
from plainfit.data.splits import most_memory

ARROW = (".arrow", ".feather")
TEXT = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
STDIN = Path("-")  # JSON lines
READ_AS = {"utf-16": "UTF-16", "cp1252": "not UTF-8: read as Windows-1252"}
DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|", "space": " "}
MISSING = ("median", "mean", "drop", "error")
COMMENTS = ("#", "sep=")  # that begin a line before the names of the columns
SAMPLE = 2**18  # bytes from which the guesses are made
CHUNK, LONGEST = 2**20, 2**26
PER_COLUMN = 2**14  # bytes that a column takes while a text file is parsed, however few its rows
COMMA = re.compile(r"[-+]?(\d*|\d{1,3}(\.\d{3})+),\d+([eE][-+]?\d+)?")
POINT = re.compile(r"[-+]?(\d*|\d{1,3}(,\d{3})+)\.\d+([eE][-+]?\d+)?")
THOUSANDS = re.compile(r"[-+]?[1-9]\d{0,2}(,\d{3})+")


@dataclass(frozen=True)
class TableOptions:
    """How a table is read and prepared: arguments of `open_data`."""

    delimiter: str | None = None
    encoding: str | None = None
    decimal: str | None = None
    na: str | None = None
    text: str | None = None
    tokenizer: str | None = None
    drop: str | None = None
    categorical: str | None = None
    numeric: str | None = None
    missing: str = "median"
    embed_above: int | None = None
    group_by: str | None = None
    order_by: str | None = None

    def __post_init__(self) -> None:
        if len(self.separator or ",") != 1:
            known = f"{', '.join(DELIMITERS)} or one character"
            raise ConfigError(f"must be {known}, got {self.delimiter!r}", field="delimiter")
        if self.decimal not in (None, ".", ","):
            raise ConfigError(f"must be . or , and is {self.decimal!r}", field="decimal")
        try:
            codecs.lookup(self.encoding or "utf-8")
        except LookupError:
            known = "one that Python knows, such as utf-8, cp1252 or shift_jis"
            raise ConfigError(f"must be {known}, got {self.encoding!r}", field="encoding") from None
        if self.missing not in MISSING:
            raise ConfigError(unknown_name("way with missing values", self.missing, MISSING))
        if self.tokenizer and not self.text:
            raise ConfigError("a tokenizer is for a column of text: name it by text")
        if self.group_by and self.order_by:
            raise ConfigError(
                f"takes the last rows, and groups are drawn: leave out one of them, got "
                f"{self.order_by} and {self.group_by}",
                field="order_by",
            )

    @property
    def own_gaps(self) -> list[str]:
        """The user's texts that mean a gap in any column."""
        return names_in(self.na)

    @property
    def separator(self) -> str | None:
        return DELIMITERS.get(self.delimiter or "", self.delimiter)

    def named(self, option: str, columns: Collection[str], path: Path) -> list[str]:
        """Return the columns that an option names, after checking that they are there."""
        return named_columns(path, option, getattr(self, option), columns)


def named_columns(path: Path, option: str, text: str | None, columns: Collection[str]) -> list[str]:
    names = names_in(text, columns)
    for name in names:
        if name not in columns:
            raise DataError(
                f"{path} has no column {name!r} for --{option.replace('_', '-')}: choose from "
                f"{', '.join(columns)}{near_miss(name, columns)}"
            )
    return names


def names_in(text: str | None, columns: Collection[str] = ()) -> list[str]:
    if text is not None and text in columns:
        return [text]
    return [name for part in (text or "").split(",") if (name := part.strip())]


class Dialect(NamedTuple):
    """How a text file is written."""

    delimiter: str
    encoding: str
    decimal: str
    gaps: list[str]
    has_quotes: bool
    skipped: int  # lines before the names
    units: int  # rows of units below them
    names: list[str]  # of the columns, as they are written


@dataclass
class Table:
    """The columns of a table by name; `notes` say what was guessed."""

    path: Path
    columns: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    dialect: Dialect | None = None  # of a text file
    written: dict[str, Any] = field(default_factory=dict)
    """Columns of a text file as they are written: whole numbers, which may be codes, and others."""
    decimal: str | None = None  # None where the file does not tell
    kept: Any = None  # the numbers of the rows that are left, where some are left out

    @property
    def rows(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def keep(self, rows: Any) -> None:
        """Leave out all rows but these, a NumPy array of True and False."""
        (left,) = rows.nonzero()
        self.kept = left if self.kept is None else self.kept[left]
        self.columns = {name: column.filter(rows) for name, column in self.columns.items()}

    def texts(self, names: list[str]) -> dict[str, Any]:
        """Return columns as a text file has them, which may be read again; others as they are."""
        texts = {name: self.written.pop(name, self.columns[name]) for name in names}
        if self.dialect and (others := [n for n in names if str(texts[n].type) != "string"]):
            columns = read_text(self.path, self.dialect, others, others).columns
            texts |= zip(others, columns, strict=True)
        return texts


def read_columns(
    path: Path, options: TableOptions, as_text: Iterable[str] = (), decimal: str = "."
) -> Table:
    """Read a file; the columns `as_text` of a text file are not taken for numbers or dates.

    The `decimal` sign is what 1,234 is read by, if no other number tells.
    """
    import pyarrow
    import pyarrow.json
    import pyarrow.parquet

    notes, dialect, written, name = list[str](), None, list[str](), path.name.lower()
    is_text = name.endswith(TEXT)
    if not is_text and options.na is not None:
        raise ConfigError(
            f"is for text files such as .csv, and {path} is none; write its gaps as null",
            field="na",
        )
    try:
        if is_text:
            dialect, notes = find_dialect(path, options, decimal)
            texts = [*as_text]
            first = read_text(path, dialect, texts, read="open_csv").schema  # by the first rows
            written = [f.name.strip() for f in first if pyarrow.types.is_int64(f.type)]
            table = read_text(path, dialect, texts + written)
        elif path == STDIN or name.endswith(".jsonl"):
            source = io.BytesIO(sys.stdin.buffer.read()) if path == STDIN else path
            table = pyarrow.json.read_json(source)
        elif path.suffix.lower() in ARROW:
            table = map_arrow(path)
        else:
            with pyarrow.parquet.ParquetFile(path) as file:
                numbers = file.metadata.num_rows * file.metadata.num_columns
                if 8 * numbers > most_memory(path):
                    raise OSError(f"it claims to hold {numbers} values")
                table = file.read()
        table.validate(full=not is_text)
        names = table.column_names
    except (pyarrow.ArrowException, OSError, EOFError, UnicodeDecodeError, LookupError) as error:
        why = getattr(error, "strerror", None) or error
        if isinstance(error, UnicodeDecodeError):
            why = "it is of another encoding; --encoding names it, such as shift_jis"
        elif dialect and "CSV parse error: " in str(error):
            why = uneven_rows(path, dialect) or error
        elif "JSON" in str(error):
            why = f"{error}; a line must be an object, whose values have the types of the others"
        raise DataError(f"{path}: the table cannot be read ({why})") from error
    nameless = [at for at, name in enumerate(names) if not name]
    for at in reversed(nameless[1:]):  # as many as there are delimiters at the end of a line
        if {*table.column(at).unique().to_pylist()} <= {"", None}:
            table, names = table.remove_column(at), [*names[:at], *names[at + 1 :]]
    if twice := sorted(name for name, count in Counter(names).items() if count > 1):
        raise DataError(
            f"{path}: columns must have different names, got {twice[0]!r} twice; rename one"
        )
    numbers = [float(name) for name in names if NUMBER.fullmatch(name)]
    if len(numbers) == len(names) > 1 and numbers != list(range(len(names))):
        raise DataError(
            f"{path}: a table must begin with the names of its columns, got the numbers "
            f"{shortened(names)}; add a first row with names"
        )
    if table.num_rows == 0:
        raise DataError(f"{path}: a table must have rows, and it has none")
    columns = dict(zip(names, table.columns, strict=True))
    if dialect is None:
        return Table(path, columns, notes, decimal=options.decimal)
    kept = {name: columns[name] for name in written}
    columns |= numbers_of(path, dialect, kept)
    if own := options.own_gaps:
        words = {name: column for name, column in columns.items() if column.type == "string"}
        kept |= words
        columns |= {name: without_gaps(column, own) for name, column in words.items()}
    return Table(path, columns, notes, dialect, kept, dialect.decimal)


def frame_columns(frame: Any) -> Table:
    import pyarrow

    with raised_as(DataError, "the data frame must be one that pyarrow reads"):
        if hasattr(frame, "iloc"):  # of pandas, whose index is no column
            table = pyarrow.Table.from_pandas(frame, preserve_index=False)
        else:
            table = pyarrow.table(frame)
    columns = dict(zip(table.column_names, table.columns, strict=True))
    return Table(Path(type(frame).__name__), columns)


def read_text(
    path: Path | io.BytesIO,
    dialect: Dialect,
    as_text: list[str],
    only: list[str] | None = None,
    read: str = "read_csv",
) -> Any:
    import pyarrow
    import pyarrow.csv

    as_written = {name.strip(): name for name in dialect.names}
    as_text = [as_written.get(name, name) for name in as_text]
    only = only and [as_written.get(name, name) for name in only]
    table = getattr(pyarrow.csv, read)(
        path,
        read_options=pyarrow.csv.ReadOptions(
            encoding=dialect.encoding,
            skip_rows=dialect.skipped,
            skip_rows_after_names=dialect.units,
            block_size=max(CHUNK, 2**11 * len(dialect.names)),  # holds the names, and some rows
        ),
        parse_options=pyarrow.csv.ParseOptions(
            delimiter=dialect.delimiter,
            newlines_in_values=dialect.has_quotes,  # slower
            invalid_row_handler=lambda row: "error" if row.text.strip() else "skip",
        ),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(as_text, pyarrow.string()),
            decimal_point=dialect.decimal,
            include_columns=only,
            null_values=dialect.gaps,  # where the others are numbers or dates
        ),
    )
    if read == "open_csv":
        return table
    return table.rename_columns([name.strip() for name in table.column_names])


def numbers_of(path: Path, dialect: Dialect, written: dict[str, Any]) -> dict[str, Any]:
    """Return the numbers in texts; read again those that are not whole after all."""
    import pyarrow

    numbers, others = {}, list[str]()
    for name, texts in written.items():
        try:
            numbers[name] = without_gaps(texts, dialect.gaps).cast(pyarrow.int64())
        except pyarrow.ArrowInvalid:
            others.append(name)
    if others:
        numbers |= zip(others, read_text(path, dialect, [], others).columns, strict=True)
    return numbers


def without_gaps(texts: Any, gaps: Iterable[str] = GAPS) -> Any:
    """Return texts with null for those that mean a gap, whatever blanks are around them."""
    import pyarrow
    from pyarrow import compute

    trimmed = compute.utf8_trim_whitespace(texts)
    return compute.if_else(compute.is_in(trimmed, pyarrow.array([*gaps])), None, texts)


def map_arrow(path: Path) -> Any:
    import pyarrow
    import pyarrow.ipc

    with pyarrow.memory_map(str(path)) as source:
        content = source.read_buffer()
    try:
        table = pyarrow.ipc.open_file(content).read_all()
    except pyarrow.ArrowInvalid as error:
        raise OSError(f"{error}; write it with pyarrow.ipc.new_file") from error
    mapped = range(content.address, content.address + content.size + 1)
    chunks = [chunk for column in table.columns for chunk in column.chunks]
    buffers = [buffer for chunk in chunks for buffer in chunk.buffers()]
    if any(buffer and buffer.size and buffer.address not in mapped for buffer in buffers):
        raise OSError("it is compressed; write it with compression='uncompressed'")
    return table


def find_dialect(
    path: Path, options: TableOptions, usual_decimal: str
) -> tuple[Dialect, list[str]]:
    """Return how a text file is written, and notes on what was guessed against the usual."""
    notes, encoding, has_quotes = [], options.encoding, True
    if encoding is None:
        encoding, has_quotes = find_encoding(path)
        if encoding in READ_AS:
            notes.append(f"the text is {READ_AS[encoding]} (--encoding changes it)")
    with opened(path) as file:
        content = b"".join([file.read(SAMPLE), *(file.readline(LONGEST) for _ in range(2))])
    sample = content.decode("utf-8-sig" if encoding == "utf-8" else encoding, "replace")
    usual = "\t" if ".tsv" in path.name.lower() else ","
    lines = list(io.StringIO(sample, newline=""))
    skipped = next((n for n, line in enumerate(lines) if not line.startswith(COMMENTS)), 0)
    delimiter = options.separator or find_delimiter("".join(lines[skipped:]), usual)
    width = usual_width(rows_of("".join(lines[skipped:]), delimiter))
    begin = (n for n in range(skipped, len(lines)) if not is_title(lines[n], delimiter, width))
    skipped = next(begin, skipped)
    last, *row = rows_of("".join(lines[max(0, skipped - 1) : skipped + 1]), delimiter) or [[]]
    are_names = bool(row) and last[0][:1] == "#" and len(last) == len(row[0])
    if are_names and any(map(NUMBER.fullmatch, row[0])):
        skipped -= 1  # the names begin with a #
    if skipped:
        notes.append(f"lines before the names of the columns are left out: {skipped}")
    if delimiter != usual and options.delimiter is None:
        known = {mark: name for name, mark in DELIMITERS.items()}
        notes.append(f"columns are separated by a {known[delimiter]} (--delimiter changes it)")
    rows = rows_of("".join(lines[skipped:]), delimiter)
    if rows and PER_COLUMN * len(rows[0]) > most_memory(path):
        raise OSError(
            f"it has {len(rows[0]):,} columns, too many for a text file of {path.stat().st_size:,} "
            "bytes; save the numbers as an array in an .npz file"
        )
    if not any(map(str.strip, lines[skipped + 1 :])):
        raise OSError("it must have rows below the names of its columns")
    decimal = options.decimal or find_decimal(rows, usual_decimal)
    if decimal != usual_decimal and options.decimal is None:
        name = {",": "comma", ".": "point"}[decimal]
        notes.append(f"numbers have a decimal {name} (--decimal changes it)")
    gaps = [*GAPS, *options.own_gaps]
    names, units = rows[0] if rows else [], units_in(rows, decimal, gaps)
    if units:
        own = ",".join(dict.fromkeys(units))
        notes.append(
            f"a row of units below the names is left out: {own} (--na {own} keeps it as gaps)"
        )
    gaps += [f" {gap}" for gap in gaps]
    dialect = Dialect(delimiter, encoding, decimal, gaps, has_quotes, skipped, bool(units), names)
    return dialect, notes


def opened(path: Path) -> Any:
    return gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb")


def find_encoding(path: Path) -> tuple[str, bool]:
    """Return the encoding of a text file, and whether it may have quotes, with breaks in them."""
    decoder, size, has_quotes = codecs.getincrementaldecoder("utf-8")(), 0, False
    with opened(path) as file:
        while chunk := file.read(CHUNK):
            if size == 0 and chunk.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                return "utf-16", True
            if b"\0" in chunk:
                raise OSError("it has bytes of 0, as no UTF-8 has; is it --encoding utf-16-le?")
            if (size := size + len(chunk)) > most_memory(path):
                raise OSError(f"it unpacks to more than {size} bytes")
            try:
                if not chunk.isascii() or decoder.getstate()[0]:
                    decoder.decode(chunk, len(chunk) < CHUNK)
            except UnicodeDecodeError:
                return "cp1252", True
            has_quotes |= b'"' in chunk
    return "utf-8", has_quotes


def rows_of(text: str, delimiter: str) -> list[list[str]]:
    rows = list[list[str]]()
    with suppress(csv.Error):  # a cell that is longer than it allows
        rows.extend(filter(None, csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)))
    return rows


def find_delimiter(text: str, usual: str) -> str:
    """Return what divides most rows into as many cells, two or more; a space must divide all."""

    def score(delimiter: str) -> tuple[bool, float, int]:
        rows = rows_of(text, delimiter) or [[]]
        width = usual_width(rows)
        share = sum(len(row) == width for row in rows) / len(rows)
        least = 1 if delimiter == " " else 0.8 if len(rows[0]) < 2 else 0  # the first is a title
        return width > 1 and share >= least, share * (delimiter != " "), width

    return max([usual, *DELIMITERS.values()], key=score)


def usual_width(rows: list[list[str]]) -> int:
    """Return how many cells most rows have."""
    return max(Counter(map(len, rows)).items(), key=lambda item: item[1])[0] if rows else 0


def is_title(line: str, delimiter: str, width: int) -> bool:
    """Return whether a line has one cell or none, or two of more, unlike the names of columns."""
    (cells,) = rows_of(line, delimiter) or [[]]
    filled = [cell for cell in cells if cell.strip()]
    most = 2 if width > 3 and len(cells) == 2 else 1  # what a line is about, and what it says
    is_whole = line.count('"') % 2 == 0
    return is_whole and len(filled) <= most and (len(cells) < width or width > 2)


def uneven_rows(path: Path, dialect: Dialect) -> str:
    """Name the lines that have more or fewer cells than there are names."""
    count, line, wrong = len(dialect.names), dialect.skipped + 1, list[str]()
    with opened(path) as file, io.TextIOWrapper(file, dialect.encoding, newline="") as text:
        for _ in range(dialect.skipped):
            text.readline()
        reader = csv.reader(text, delimiter=dialect.delimiter)
        with suppress(csv.Error):
            for row in reader:
                if len(row) != count and "".join(row).strip():
                    wrong.append(f"line {line} has {len(row)}")
                line = dialect.skipped + reader.line_num + 1
    must = f"each line must have {count} cells, as many as there are names"
    return f"{must}, and {shortened(wrong)}; mend or delete such lines" if wrong else ""


def units_in(rows: list[list[str]], decimal: str, gaps: Sequence[str]) -> list[str]:
    """Return the units that the first row has where all others have numbers, else none."""
    first, *others = [[cell.strip() for cell in row] for row in rows[1:]] or [[]]
    columns = [*zip(*others, strict=False)]
    if len(others) < 2 or len(first) != len(columns):
        return []
    units, rest = list[str](), list[str]()
    for cell, column in zip(first, columns, strict=True):
        given = {each for each in column if each not in gaps}
        are_numbers = given and all(number(each, decimal) is not None for each in given)
        (units if are_numbers else rest).append(cell)
        if cell in given or (cell not in gaps and number(cell, decimal) is not None):
            return []
    units = [cell for cell in units if cell not in gaps]
    is_clear = len(units) > 1 or not any(cell and cell not in gaps for cell in rest)
    return units if is_clear else []


def find_decimal(rows: list[list[str]], usual: str) -> str:
    """Return the decimal sign of the numbers, and the usual one if they do not tell."""
    cells = {cell.strip(" $€£¥%") for row in rows[1:] for cell in row}
    if any(map(POINT.fullmatch, cells)):
        return "."
    commas = filter(COMMA.fullmatch, cells)
    return usual if all(map(THOUSANDS.fullmatch, commas)) else ","

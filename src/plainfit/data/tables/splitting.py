"""Columns that say how the rows are split: into groups that stay together, or by their order."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plainfit.common.errors import DataError
from plainfit.data.alone import GAPS
from plainfit.data.parts import Split, group_numbers
from plainfit.data.tables.preparing import gaps_in, refuse_gaps
from plainfit.data.tables.reading import Table, TableOptions
from plainfit.data.tables.values import Dates, Texts, texts_in, values_of


def split_by_columns(table: Table, options: TableOptions, split: Split) -> Split:
    """Return the split with the groups or the order of the rows."""
    groups, order = (
        options.named(option, table.columns, table.path) for option in ("group_by", "order_by")
    )
    if groups:
        codes = [group_codes(table, name) for name in groups]
        return replace(split, groups=group_numbers(*codes))
    if order:
        rows = np.lexsort([sort_key(table, name) for name in reversed(order)])
        return replace(split, order=torch.from_numpy(rows))
    return split


def group_codes(table: Table, name: str) -> NDArray[np.int64]:
    texts = texts_in(table.columns[name])
    gaps = [code for code, text in enumerate(texts.names) if text.strip() in GAPS]
    refuse_gaps(table.path, name, np.isin(texts.codes, gaps))
    return texts.codes


def sort_key(table: Table, name: str) -> NDArray[np.float64]:
    values = values_of(name, table.columns[name], decimal=table.decimal)
    if isinstance(values, Texts):
        raise DataError(
            f"{table.path}: rows are ordered by numbers or dates, and column {name!r} is text, "
            f"such as {values.names[0]!r}; write its dates as 2026-01-31"
        )
    refuse_gaps(table.path, name, gaps_in(values))
    return values.parts["days"] if isinstance(values, Dates) else values


def cuts(table: Table, options: TableOptions, order: Tensor, parts: Mapping[str, Any]) -> str:
    """Tell by which value each part begins."""
    names = options.named("order_by", table.columns, table.path)
    begins, at = [], 0
    for part, rows in parts.items():
        value = " ".join(str(table.columns[name][int(order[at])].as_py()) for name in names)
        begins.append(f"{part} from {value}")
        at += len(rows)
    return f"rows are ordered by {', '.join(names)}: {', '.join(begins)}"

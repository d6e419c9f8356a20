"""How the parts are drawn that a source does not have."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plainfit.common.errors import ConfigError
from plainfit.common.seeding import stream

SHARE = 0.15  # of the samples, for validation and for testing each


@dataclass(frozen=True)
class Split:
    """Which share of the training samples each part gets, and which samples."""

    seed: int = 0
    valid_share: float = SHARE
    test_share: float = SHARE
    stratify: bool = True
    """Whether each part gets its share of each class."""
    groups: Tensor | None = None
    """The number of each sample's group, from 0; a group stays in one part."""
    order: Tensor | None = None
    """The samples in order: the last are the test set, those before them are for validation."""

    def __post_init__(self) -> None:
        valid, test = self.valid_share, self.test_share
        if not (valid > 0 and test >= 0 and valid + test < 1):
            raise ConfigError(
                "must be above 0, and below 1 together with a test share of 0 or more, got "
                f"{valid} and {test}",
                field="valid_share",
            )

    def missing(self, name: str, given: Collection[str]) -> dict[str, float]:
        """Return the shares of the parts to draw; refuse settings for a part that is not drawn."""
        shares = {"valid": self.valid_share, "test": self.test_share}
        drawn = [] if "valid" in given else ["valid"] if "test" in given else ["valid", "test"]
        unused = [f"{part}_share" for part in shares if part not in drawn and shares[part] != SHARE]
        unused += ["group_by"] * (self.groups is not None and not drawn)
        unused += ["stratify"] * (not self.stratify and not drawn)
        if unused:
            raise ConfigError(
                f"is for parts that are drawn, and {name} has its own: leave it out",
                field=unused[0],
            )
        return {part: shares[part] for part in drawn if shares[part] > 0}


USUAL = Split()


def split_rows(
    name: str, encoded: Mapping[str, Tensor], split: Split = USUAL
) -> dict[str, tuple[str, Tensor]]:
    """Return (source part, rows) of each part; missing parts are drawn from `train`."""
    rows = {part: (part, torch.arange(len(labels))) for part, labels in encoded.items()}
    labels, shares = encoded["train"], split.missing(name, rows)
    labels = labels if split.stratify else torch.zeros_like(labels)
    if split.order is not None:
        drawn = take_last(split.order, shares)
    elif split.groups is not None:
        drawn = draw_groups(labels, split.groups, shares, split.seed)
    else:
        drawn = draw_parts(labels, shares, split.seed)
    return rows | {part: ("train", at) for part, at in drawn.items()}


def draw_parts(labels: Tensor, shares: Mapping[str, float], seed: int) -> dict[str, Tensor]:
    """Draw the rows of each part, stratified: a class of three or more samples is in every part.

    `train` has the rest.
    """
    taken = torch.zeros(len(labels), dtype=torch.bool)
    rows: dict[str, Tensor] = {}
    by_class = labels.argsort(stable=True).split(labels.bincount().tolist())
    for part, share in shares.items():
        chosen = []
        for label, of_class in enumerate(by_class):
            order = torch.randperm(len(of_class), generator=stream(seed, "split", label))
            free = of_class[order][~taken[of_class[order]]]
            most = len(free) - len(shares) + len(rows)  # one is left for each part to come
            wanted = max(1, min(round(share * len(of_class)), most)) if len(free) > 1 else 0
            chosen.append(free[:wanted])
        rows[part] = torch.cat(chosen).sort().values
        taken[rows[part]] = True
    rows["train"] = (~taken).nonzero().flatten()
    return rows


def group_numbers(*columns: NDArray[Any]) -> Tensor:
    """Number rows by their values in the columns: the same ones, the same number."""
    numbers = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        values, codes = np.unique(column, return_inverse=True)
        numbers = np.unique(numbers * len(values) + codes, return_inverse=True)[1]
    return torch.from_numpy(numbers)


def draw_groups(
    labels: Tensor, groups: Tensor, shares: Mapping[str, float], seed: int
) -> dict[str, Tensor]:
    """Draw whole groups, each as if it were its first row."""
    firsts = torch.from_numpy(np.unique(groups.numpy(), return_index=True)[1])
    drawn = draw_parts(labels[firsts], shares, seed)
    return {part: torch.isin(groups, at).nonzero().flatten() for part, at in drawn.items()}


def take_last(order: Tensor, shares: Mapping[str, float]) -> dict[str, Tensor]:
    """Take the last rows for the last part, and those before them for the one before it."""
    counts = [max(1, round(share * len(order))) for share in shares.values()]
    ends = np.cumsum([len(order) - sum(counts), *counts])[:-1]
    parts = zip(("train", *shares), order.tensor_split(ends.tolist()), strict=True)
    return {part: rows.sort().values for part, rows in parts}

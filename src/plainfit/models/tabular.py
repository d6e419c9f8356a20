"""A network for tables: embeddings of categories beside numbers, then linear layers."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TabularModel(nn.Module):
    """Embedded categories beside numbers, through linear layers: (batch, ...) -> (batch, classes).

    `embeddings` has the number of codes of each feature that holds codes, by its place. The widths,
    the initial embeddings and the order within a layer are those of fastai's `TabularModel`
    (https://docs.fast.ai/tabular.model.html). Numbers have no batch norm: tables come standardised.
    """

    def __init__(
        self,
        in_features: int,
        classes: int,
        embeddings: Mapping[str, int] | None = None,
        hidden: Sequence[int] = (200, 100),
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        counts = {int(at): count for at, count in (embeddings or {}).items()}
        self.codes = list(counts)
        numbers = [at for at in range(in_features) if at not in counts]
        self.register_buffer("numbers", torch.tensor(numbers, dtype=torch.long), persistent=False)
        widths = [min(600, round(1.6 * count**0.56)) for count in counts.values()]
        self.embeddings = nn.ModuleList(map(nn.Embedding, counts.values(), widths))
        for embedding in self.embeddings:
            nn.init.trunc_normal_(embedding.weight, std=0.01)
        sizes = [len(numbers) + sum(widths), *hidden]
        self.hidden = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(sizes))
        self.norms = nn.ModuleList(map(nn.BatchNorm1d, hidden))
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(sizes[-1], classes)

    def forward(self, xb: Tensor) -> Tensor:
        xb = xb.flatten(1)
        codes = zip(self.codes, self.embeddings, strict=True)
        embedded = [embedding(xb[:, at].long()) for at, embedding in codes]
        xb = torch.cat([xb.index_select(1, self.numbers), *embedded], dim=1)
        for layer, norm in zip(self.hidden, self.norms, strict=True):
            xb = self.dropout(norm(F.relu(layer(xb))))
        return self.out(xb)

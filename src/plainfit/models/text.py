"""The models of text: two in short plain torch, to be read and copied, and those of transformers.

A sample is the numbers of its words, int64 of shape (length,); 0 fills up, and is not looked at.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BagOfWords(nn.Module):
    """The sum of the words' vectors by the root of their number, and a linear layer.

    This is fastText (Joulin et al. 2016, arXiv:1607.01759), whose mean would make the gradients of
    a long text small.
    """

    def __init__(self, vocabulary: int, classes: int = 2, width: int = 64) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=0)
        self.out = nn.Linear(width, classes)
        with torch.no_grad():
            self.embedding.weight.mul_(0.1)

    def forward(self, xb: Tensor) -> Tensor:
        words = (xb != 0).sum(1, keepdim=True)
        return self.out(self.embedding(xb).sum(1) / words.clamp(min=1).sqrt())


class EncoderBlock(nn.Module):
    """Attention between the words, then two linear layers, each added to its input."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.dropout(self.mix(seen.transpose(1, 2).flatten(2)))
        return x + self.dropout(self.fc2(F.gelu(self.fc1(self.norm2(x)))))


class Transformer(nn.Module):
    """A small encoder with the norms first (Vaswani et al. 2017, arXiv:1706.03762)."""

    def __init__(
        self,
        vocabulary: int,
        input_shape: Sequence[int],
        classes: int = 2,
        width: int = 64,
        layers: int = 2,
        heads: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=0)
        self.positions = nn.Parameter(torch.randn(*input_shape, width) * 0.02)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(EncoderBlock(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, classes)

    def forward(self, xb: Tensor) -> Tensor:
        is_word = xb != 0
        x = self.dropout(self.embedding(xb) + self.positions)
        for block in self.blocks:
            x = block(x, is_word[:, None, None, :])
        weights = is_word.unsqueeze(2).to(x.dtype)
        return self.out((self.norm(x) * weights).sum(1) / weights.sum(1).clamp(min=1))


class PretrainedText(nn.Module):
    """A model of transformers that classifies texts; a sample is the numbers of its tokens."""

    def __init__(self, config: Mapping[str, Any], classes: int = 2) -> None:
        from transformers import AutoConfig, AutoModelForSequenceClassification

        super().__init__()
        known = AutoConfig.for_model(**config, num_labels=classes)
        self.padding = known.pad_token_id
        build: Any = AutoModelForSequenceClassification.from_config
        self.model = build(known, trust_remote_code=False)

    def forward(self, xb: Tensor) -> Tensor:
        return self.model(xb, attention_mask=(xb != self.padding).long()).logits

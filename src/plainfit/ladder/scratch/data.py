"""Data: row numbers, cut into batches, and a look-up."""

from collections.abc import Mapping, Sequence
from itertools import islice

import torch
from torch import Generator, Tensor


class TensorDataset:
    """Rows of tensors of the same length: `dataset[i]` is `(x[i], y[i])`."""

    def __init__(self, *tensors):
        if len({len(tensor) for tensor in tensors}) != 1:
            lengths = [len(tensor) for tensor in tensors]
            raise ValueError(f"tensors must have the same number of rows, got {lengths}")
        self.tensors = tensors

    def __getitem__(self, index):
        return tuple(tensor[index] for tensor in self.tensors)

    def __len__(self):
        return len(self.tensors[0])


def draw_seed(generator=None):
    """Draw a seed from a generator, or from the global one."""
    return int(torch.empty((), dtype=torch.int64).random_(generator=generator))


class RandomSampler:
    """Row numbers in random order, without repetition.

    Without a generator each pass makes one, seeded from the global generator.
    """

    def __init__(self, data_source, *, generator=None):
        self.data_source, self.generator = data_source, generator

    def __iter__(self):
        generator = self.generator or Generator().manual_seed(draw_seed())
        yield from torch.randperm(len(self), generator=generator).tolist()
        torch.randperm(len(self), generator=generator)  # PyTorch draws a second one and drops it

    def __len__(self):
        return len(self.data_source)


class BatchSampler:
    """The numbers that a sampler yields, in lists of `batch_size`."""

    def __init__(self, sampler, batch_size, drop_last):
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.sampler, self.batch_size, self.drop_last = sampler, batch_size, drop_last

    def __iter__(self):
        rows = iter(self.sampler)
        while batch := list(islice(rows, self.batch_size)):
            if len(batch) == self.batch_size or not self.drop_last:
                yield batch

    def __len__(self):
        rows = len(self.sampler)
        return rows // self.batch_size if self.drop_last else -(-rows // self.batch_size)


def default_collate(batch):
    """Stack samples: tensors, numbers, and within dicts, lists and tuples; strings stay a list."""
    first = batch[0]
    if isinstance(first, Tensor):
        return torch.stack(batch)
    if isinstance(first, int | float):
        return torch.tensor(batch, dtype=torch.float64 if isinstance(first, float) else None)
    if isinstance(first, str | bytes):
        return batch
    if isinstance(first, Mapping):
        return {key: default_collate([sample[key] for sample in batch]) for key in first}
    if isinstance(first, Sequence):
        parts = [default_collate(part) for part in zip(*batch, strict=True)]
        return type(first)(*parts) if hasattr(first, "_fields") else parts
    raise TypeError(
        "samples must be tensors, numbers, strings, or dicts, lists or tuples of them, "
        f"got {type(first).__name__}; pass a collate_fn"
    )


class DataLoader:
    """Batches of a dataset: `collate_fn` of the rows in each list of `batch_sampler`."""

    def __init__(
        self,
        dataset,
        batch_size=1,
        shuffle=None,
        *,
        collate_fn=None,
        drop_last=False,
        generator=None,
    ):
        rows = RandomSampler(dataset, generator=generator) if shuffle else range(len(dataset))
        self.dataset, self.generator = dataset, generator
        self.collate_fn = collate_fn or default_collate
        self.batch_sampler = BatchSampler(rows, batch_size, drop_last)

    def __iter__(self):
        draw_seed(self.generator)  # PyTorch's seed for worker processes, drawn without them too
        return (self.collate_fn([self.dataset[i] for i in rows]) for rows in self.batch_sampler)

    def __len__(self):
        return len(self.batch_sampler)

"""skorch's estimators with the fast loader that the loop's comparison gives it."""

from functools import partial

import torch
from estimator import report
from estimator_skorch import make
from skorch.dataset import Dataset
from torch.utils.data import DataLoader, TensorDataset
from torch_parts import rows_loader


def loader(dataset: Dataset, batch_size: int, *, shuffle: bool) -> DataLoader:
    """Return batches gathered from tensors, by rows."""
    tensors = TensorDataset(torch.from_numpy(dataset.X), torch.from_numpy(dataset.y))
    return rows_loader(tensors, batch_size, shuffle=shuffle)


report(partial(make, iterator_train=loader))

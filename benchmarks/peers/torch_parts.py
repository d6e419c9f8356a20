"""What the contenders on torch share: tensors, the two models, the faster stock loader."""

import argparse
import hashlib
from collections.abc import Iterator
from pathlib import Path

import torch
from contender import Watch, read
from torch import Tensor, nn, optim
from torch.utils.data import DataLoader, Sampler, TensorDataset

DEVICE = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def watch() -> Watch:
    """Return a watch that waits for the accelerator, where there is one."""
    return Watch() if DEVICE.type == "cpu" else Watch(torch.accelerator.synchronize)


def tensors(folder: Path, part: str, model: str) -> tuple[Tensor, Tensor]:
    """Return float32 inputs in [0, 1), flat for the logistic regression, and labels."""
    x, y = (torch.from_numpy(array) for array in read(folder, part))
    x = x.float().div_(256)
    return (x.flatten(1) if model == "logistic" else x.unsqueeze(1)), y


def datasets(args: argparse.Namespace) -> tuple[TensorDataset, TensorDataset]:
    """Return the training and the validation set."""
    train, valid = (TensorDataset(*tensors(args.data, p, args.model)) for p in ("train", "valid"))
    return train, valid


def make_model(args: argparse.Namespace) -> nn.Module:
    """Return the logistic regression or the tutorial's CNN."""
    torch.manual_seed(args.seed)
    if args.model == "logistic":
        return nn.Linear(784, 10)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 10, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


def make_sgd(args: argparse.Namespace, model: nn.Module) -> optim.SGD:
    """Return the optimizer."""
    return optim.SGD(model.parameters(), lr=args.lr, momentum=args.momentum)


class Rows(Sampler[Tensor]):
    """Row numbers by the batch, as tensors: for a `DataLoader` with `batch_size=None`."""

    def __init__(self, n: int, batch_size: int, shuffle: bool) -> None:
        self.n, self.batch_size, self.shuffle = n, batch_size, shuffle

    def __len__(self) -> int:
        return -(-self.n // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        order = torch.randperm(self.n) if self.shuffle else torch.arange(self.n)
        yield from order.split(self.batch_size)


def rows_loader(dataset: TensorDataset, batch_size: int, *, shuffle: bool) -> DataLoader:
    """Return torch's loader without its automatic batching: one gather a batch."""
    return DataLoader(dataset, batch_size=None, sampler=Rows(len(dataset), batch_size, shuffle))


class TensorRows(TensorDataset):
    """Tensors that give a whole batch at once, already joined."""

    def __getitems__(self, rows: list[int]) -> tuple[Tensor, ...]:
        """Return the batch; `collate_fn` then has nothing to do."""
        index = torch.tensor(rows)
        return tuple(tensor.index_select(0, index) for tensor in self.tensors)


def batch_loader(dataset: TensorDataset, batch_size: int, *, shuffle: bool) -> DataLoader:
    """Return torch's loader with its own batching, and one gather a batch by `__getitems__`."""
    rows = TensorRows(*dataset.tensors)
    return DataLoader(rows, batch_size, shuffle=shuffle, collate_fn=lambda batch: batch)


LOADERS = {"rows": rows_loader, "getitems": batch_loader, "stock": DataLoader}


def loaders(args: argparse.Namespace) -> tuple[DataLoader, DataLoader]:
    """Return both loaders, of the kind `--loader`; `stock` is that of torch's tutorials."""
    train, valid = datasets(args)
    make = LOADERS[args.loader]
    return (
        make(train, args.batch_size, shuffle=True),
        make(valid, args.batch_size * 2, shuffle=False),
    )


def weights_hash(model: nn.Module) -> str:
    """Return the SHA-256 of all parameters' bytes, in their order."""
    values = torch.cat([p.detach().reshape(-1) for p in model.parameters()]).cpu()
    return hashlib.sha256(values.numpy().tobytes()).hexdigest()

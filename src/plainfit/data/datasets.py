"""Datasets: what people have as one of torch, and the rows of one that are read many at once."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset, TensorDataset

from plainfit.common.errors import ConfigError, DataError, reason, unknown_name
from plainfit.data.parts import draw_parts

NUMBERS = (Tensor, np.ndarray, np.generic, bool, int, float)


def bytes_to_floats(xb: Tensor) -> Tensor:
    """Turn uint8 values into float32 ones in [0, 1): divided by 256, as the tutorial's MNIST is."""
    return xb.float().div_(256)


class ImageDataset(TensorDataset):
    """Images stored as bytes, in a quarter of the memory of floats; floats in [0, 1) when read.

    Args:
        images: uint8, shape (samples, channels, height, width).
        labels: int64, shape (samples,).

    >>> xb, yb = ImageDataset(torch.full((3, 1, 8, 8), 128).byte(), torch.arange(3))[:2]
    >>> xb.shape, xb.max(), yb
    (torch.Size([2, 1, 8, 8]), tensor(0.5000), tensor([0, 1]))
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        if images.dtype != torch.uint8 or images.dim() != 4:
            raise ValueError(
                "images must be uint8 of shape (samples, channels, height, width), got "
                f"{images.dtype} of shape {tuple(images.shape)}; wrap floats in a TensorDataset"
            )
        super().__init__(images, labels)

    def __getitem__(self, index: Any) -> tuple[Tensor, ...]:
        xb, yb = super().__getitem__(index)  # type: ignore[no-untyped-call]
        return bytes_to_floats(xb), yb


class Columns(TensorDataset):
    """Tensors by name; a sample is a dict of their rows."""

    def __init__(self, columns: Mapping[str, Tensor]) -> None:
        super().__init__(*columns.values())
        self.names = tuple(columns)

    def __getitem__(self, index: Any) -> dict[str, Tensor]:  # type: ignore[override]
        return dict(zip(self.names, super().__getitem__(index), strict=True))  # type: ignore[no-untyped-call]


def in_memory(dataset: Any) -> bool:
    # Other subclasses of TensorDataset may override how rows are read.
    return type(dataset) in (TensorDataset, ImageDataset, Columns)


def resident(dataset: Dataset[Any], device: torch.device, budget: int) -> Dataset[Any]:
    """Move a dataset in memory to a device, unless it takes more than `budget` MiB there."""
    tensors = dataset.tensors if type(dataset) in (TensorDataset, ImageDataset) else ()  # type: ignore[attr-defined]
    if not tensors or sum(tensor.nbytes for tensor in tensors) > budget * 2**20:
        return dataset
    return type(dataset)(*(tensor.to(device) for tensor in tensors))


class Rows:
    """The rows of a dataset that are read many at once: those at `at` of the `parts` in a row."""

    def __init__(self, parts: list[Any], at: Tensor) -> None:
        self.parts = parts
        self.at = at

    @classmethod
    def of(cls, dataset: Any) -> "Rows | None":
        """Return the rows of tensors in memory, or of splits and joints of them; else None."""
        if in_memory(dataset) or hasattr(dataset, "gather"):
            return cls([dataset], torch.arange(len(dataset)))
        if type(dataset) is Subset and (inner := cls.of(dataset.dataset)):
            indices = torch.as_tensor(dataset.indices)
            is_mask = indices.dtype == torch.bool or indices.is_floating_point()
            return None if is_mask else cls(inner.parts, inner.at[indices])
        if type(dataset) is not ConcatDataset:
            return None
        parts: list[Any] = []
        at, start = [], 0
        for joined in map(cls.of, dataset.datasets):
            if joined is None:
                return None
            parts += joined.parts
            at.append(joined.at + start)
            start += sum(map(len, joined.parts))
        return cls(parts, torch.cat(at))

    @property
    def device(self) -> torch.device | None:
        first = self.parts[0]
        return first.tensors[0].device if isinstance(first, TensorDataset) else None

    def gather(self, rows: Tensor) -> Any:
        """Return the batch of these rows, numbered as in `at`."""
        first, *others = self.parts
        batch = self.joined(rows) if others else read(first, rows)
        return dict(zip(first.names, batch, strict=True)) if isinstance(first, Columns) else batch

    def joined(self, rows: Tensor) -> tuple[Tensor, ...]:
        places, batches, start = [], [], 0
        for part in self.parts:
            mine = ((rows >= start) & (rows < start + len(part))).nonzero().flatten()
            if len(mine):
                places.append(mine)
                batches.append(read(part, rows[mine] - start))
            start += len(part)
        back = torch.cat(places).argsort()
        return tuple(torch.cat(column)[back] for column in zip(*batches, strict=True))


def read(dataset: Any, rows: Tensor) -> Any:
    # Rows are gathered, never sliced: a slice is a view at another memory offset, where
    # F.linear may round differently than for a copy of the same values.
    if not isinstance(dataset, TensorDataset):
        return dataset.gather(rows)
    xb, *rest = (tensor.index_select(0, rows) for tensor in dataset.tensors)
    return bytes_to_floats(xb) if isinstance(dataset, ImageDataset) else xb, *rest


def class_labels(dataset: Any) -> Tensor | None:
    rows = Rows.of(dataset)
    labels: list[Any] = [
        part.tensors[-1] if isinstance(part, TensorDataset) else getattr(part, "labels", None)
        for part in (rows.parts if rows else [dataset])
    ]
    if any(not isinstance(part, Tensor) or part.dtype != torch.int64 for part in labels):
        return None
    is_known = all(part.dim() == 1 and len(part) and part.min() >= 0 for part in labels)
    return torch.cat(labels)[rows.at if rows else slice(None)] if is_known else None


def has_masks(dataset: Any) -> bool:
    """Return whether the targets are classes of pixels, in memory."""
    rows = Rows.of(dataset)
    targets = [part.tensors[-1] for part in rows.parts if in_memory(part)] if rows else []
    return any(yb.dtype == torch.int64 and yb.dim() == 3 for yb in targets)


def as_dataset(data: Any, name: str, target: Any = None, *, raw: bool = False) -> Any:
    """Return what `get_data` was given as a dataset; `raw` samples of a list stay as they are."""
    if is_table(data) or target is not None:
        return of_table(data, name, target)
    if isinstance(data, tuple | Mapping):
        return of_arrays(data, name)
    if hasattr(data, "__array__"):  # of NumPy, torch, pandas, ...
        return of_arrays((data,), name)
    if type(data) is Subset:
        return Subset(as_dataset(data.dataset, name, raw=raw), data.indices)
    if type(data) is ConcatDataset:
        return ConcatDataset([as_dataset(part, name, raw=raw) for part in data.datasets])
    if isinstance(data, list):
        return data if raw else of_samples(data, name)
    if hasattr(data, "with_format") and not raw:  # of Hugging Face: numbers as tensors
        has_own = getattr(data, "format", {"type": None})["type"]  # a stream does not tell
        return data if has_own else data.with_format("torch")
    if isinstance(data, IterableDataset) or (
        hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, str)
    ):
        return data
    raise ConfigError(
        "must be a dataset with a length, arrays such as (X, y), a data frame or a list of "
        f"samples, got {type(data).__name__}; read files with plainfit.open_data, and pass loaders "
        "to fit as they are",
        field=name,
    )


def is_table(data: Any) -> bool:
    return hasattr(data, "columns") and hasattr(data, "to_numpy")  # a data frame of any library


def of_table(table: Any, name: str, target: Any) -> Dataset[Any]:
    if target is None or not is_table(table):
        raise ConfigError(
            f"names the column of a data frame to predict, got {target!r} with a "
            f"{type(table).__name__} as {name}; for a key of batches, pass target to fit",
            field="target",
        )
    columns = list(table.columns)
    targets = target if isinstance(target, list) else [target]
    for column in targets:
        if column not in columns:
            raise ConfigError(unknown_name("target", str(column), map(str, columns)))
    inputs = [column for column in columns if column not in targets]
    return of_arrays((table[inputs], table[target]), name)


def check_columns(train: Any, valid: Any) -> None:
    """Refuse two data frames whose columns differ, or their order."""
    tables = [data[0] if isinstance(data, tuple) and data else data for data in (train, valid)]
    if all(map(is_table, tables)):
        first, second = (list(table.columns) for table in tables)
        if first != second:
            raise DataError(
                "the columns for training and validation must be the same, in one order, got "
                f"{', '.join(map(str, first))} and {', '.join(map(str, second))}"
            )


def of_arrays(arrays: Any, name: str) -> Dataset[Any]:
    """Return arrays whose rows are samples: inputs and target in a tuple, or all by name."""
    by_name = isinstance(arrays, Mapping)
    tensors: dict[Any, Tensor] = {
        key: as_tensor(value, f"{name}[{key!r}]", is_input=not by_name and key == 0)
        for key, value in (arrays.items() if by_name else enumerate(arrays))
    }
    lengths = [len(tensor) for tensor in tensors.values()]
    if len({*lengths}) != 1:
        got = " and ".join(map(str, lengths)) or "no arrays"
        raise DataError(f"{name} must have one row in each array for a sample, got {got}")
    if by_name:
        return Columns(tensors)
    x, *rest = tensors.values()
    if x.dtype == torch.uint8 and len(rest) == 1:
        return ImageDataset(x, *rest)
    return TensorDataset(bytes_to_floats(x) if x.dtype == torch.uint8 else x, *rest)


def as_tensor(values: Any, what: str, *, is_input: bool = False) -> Tensor:
    """Return floats as float32 and other numbers as int64; as input, images of bytes stay bytes."""
    if is_table(values):
        columns = {name: as_tensor(values[name], f"column {name!r}") for name in values.columns}
        if missing := [repr(name) for name, column in columns.items() if column.isnan().any()]:
            raise DataError(f"{what} must have no missing values, and has some in {missing[0]}")
        table = torch.stack([*columns.values()], dim=1)
        return table.to(torch.get_default_dtype()) if is_input else table
    try:
        if isinstance(values, list) and values and isinstance(values[0], Tensor):
            values = torch.stack(values)
        array = values if isinstance(values, Tensor) else np.asarray(values)
    except (ValueError, RuntimeError) as error:  # of several shapes
        raise DataError(
            f"{what} must have rows of one shape ({reason(error)}); pass a list of samples, and "
            "collate_fn"
        ) from error
    if not isinstance(array, Tensor):
        if array.dtype.kind not in "fiub":
            value = next(array.flat, None)
            raise DataError(
                f"{what} must be numbers, got {array.dtype} such as {value!r}; encode text, and "
                "fill what is missing"
            )
        array = torch.from_numpy(np.require(array, array.dtype.newbyteorder("="), ["C", "W"]))
    if array.dim() == 0:
        raise DataError(f"{what} must be an array with a row for each sample, got {array.item()}")
    is_image = is_input and array.dtype == torch.uint8 and array.dim() == 4
    if is_image or array.is_complex():
        return array
    return array.to(torch.get_default_dtype() if array.is_floating_point() else torch.int64)


def of_samples(samples: list[Any], name: str) -> Any:
    """Return samples in memory as arrays, if their parts are numbers of one shape."""
    first = samples[0] if samples else None
    if isinstance(first, Mapping) and all(map(is_row, first.values())):
        columns: Any = {key: [sample[key] for sample in samples] for key in first}
    elif type(first) is tuple and all(map(is_row, first)):
        columns = tuple(map(list, zip(*samples, strict=True)))
    elif is_row(first):
        columns = (samples,)
    else:
        return samples
    try:
        return of_arrays(columns, name)
    except DataError:  # of several shapes: a collate function's matter
        return samples


def is_row(part: Any) -> bool:
    """Return whether a part of a sample is a number, an array, or a list of numbers."""
    if isinstance(part, list):  # of a tuple or a list of arrays, each is a part of its own
        return bool(part) and not isinstance(part[0], Tensor | np.ndarray) and is_row(part[0])
    return isinstance(part, NUMBERS)


def split(dataset: Any, share: float, seed: int) -> tuple[Subset[Any], Subset[Any]]:
    """Draw a share of the samples for validation, of each class alike where labels are classes."""
    if not 0 < share < 1 or isinstance(dataset, IterableDataset):
        raise ConfigError(
            "must be a share between 0 and 1 of data with a length, or data, got "
            f"{share!r} of a {type(dataset).__name__}",
            field="valid_ds",
        )
    numbers = torch.zeros(len(dataset), dtype=torch.int64)
    if (labels := class_labels(dataset)) is not None:
        values, found = labels.unique(return_inverse=True)
        if len(values) <= share * len(labels):  # else they are numbers rather than classes
            numbers = found
    rows = draw_parts(numbers, {"valid": share}, seed)
    return Subset(dataset, rows["train"].tolist()), Subset(dataset, rows["valid"].tolist())

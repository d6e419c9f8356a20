"""The data in a script: how it is read, and the order in which its batches come."""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
    default_collate,
)

from plainfit.common.errors import EjectError
from plainfit.common.seeding import drawing_from, stream
from plainfit.data.lazy import LazySamples
from plainfit.data.loaders import ImageDataset, TensorLoader
from plainfit.data.mnist import TRAIN_SIZE, TRAIN_X, TRAIN_Y
from plainfit.data.samples import SampleBatches, SampleLoader
from plainfit.data.splits import draw_parts
from plainfit.data.wrapping import AugmentedLoader, WrappedDataLoader
from plainfit.eject.layout import literal
from plainfit.eject.lifting import Lifter, place
from plainfit.eject.recipe import Recipe
from plainfit.eject.values import call, expression, named
from plainfit.training.record import generator_of

NAMES = ("x_train", "y_train", "x_valid", "y_valid")
READ_IDX = f'''
def read_idx(name: str, header: int) -> Tensor:
    """Return the bytes of a file after its header."""
    content = READ
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=header)


images = read_idx("{TRAIN_X}", 16).view(-1, 1, 28, 28).float().div_(256)
labels = read_idx("{TRAIN_Y}", 8).long()
x_train, x_valid = images.split([{TRAIN_SIZE:_}, 10_000])
y_train, y_valid = labels.split([{TRAIN_SIZE:_}, 10_000])
'''


READ_DIGITS = """
digits = load_digits()
# From gray values of 0 to 16 to those of a byte.
grays = torch.from_numpy(digits.images) * (255 / 16)
images = grays.round().unsqueeze(1).float().div_(256)
labels = torch.from_numpy(digits.target)
split = {split}(labels, ["valid", "test"], {seed})
x_train, y_train = images[split["train"]], labels[split["train"]]
x_valid, y_valid = images[split["valid"]], labels[split["valid"]]
"""


@dataclass
class Served:
    """A loader, in the terms of a script."""

    dataset: Any
    batch_size: int
    shuffle: bool
    seed: int
    drop_last: bool
    is_stock: bool = False
    """Whether it is a `DataLoader` that the user made."""
    sampler: Any = None
    """One of the user's own."""
    collate_fn: Any = default_collate
    funcs: list[Any] = field(default_factory=list)
    """What a batch passes through: functions, and loaders that augment."""

    def limits(self) -> Iterator[EjectError]:
        """Yield why it stops above the lowest level."""
        if self.is_stock:
            yield EjectError("a stock DataLoader draws the order in a way of its own", "loop")
        if any(getattr(func, "mixes_labels", False) for func in self.funcs):
            yield EjectError(
                "mixed labels are class probabilities, and the loss of level tensors takes labels",
                "layers",
            )


class DataText:
    """The lines of a script that are about data."""

    def __init__(self, recipe: Recipe, lifter: Lifter, level: str) -> None:
        self.recipe = recipe
        self.lifter = lifter
        self.by_index = level != "loop"
        self.train = served(recipe.train_dl)
        self.valid = served(recipe.valid_dl) if recipe.valid_dl is not None else None
        self.tensors: dict[str, Tensor] = {}
        """What is to be written beside the script."""
        self.funcs: dict[int, str] = {}
        """What the functions that batches pass through are called."""
        self.check_validation()

    def prepare(self) -> None:
        """Lift what the reading of batches needs."""
        if not self.train.is_stock:
            self.lifter.lift(stream)
        for server in (self.train, self.valid):
            for func in server.funcs if server else []:
                if not isinstance(func, AugmentedLoader):
                    self.funcs[id(func)] = expression(func, self.lifter)

    def check_validation(self) -> None:
        """Check that validation goes through the data in order."""
        if self.valid is not None and self.valid.shuffle:
            raise EjectError(
                "a script validates in the order of the data, and this one shuffled it"
            )

    def limits(self) -> list[EjectError]:
        """Return why the loaders stop above the lowest level, if they do."""
        return [limit for server in (self.train, self.valid) if server for limit in server.limits()]

    def gives_images(self) -> bool:
        """Return whether the model is given images as they are, and no flat vectors."""
        first = self.train.dataset[0][0]
        return isinstance(first, Tensor) and first.dim() == 3 and not self.funcs

    def settings(self) -> list[str]:
        """Return the constants that say where the data is."""
        lines = []
        if self.draws_order() and self.train.seed != self.recipe.seed:
            lines.append(f"ORDER_SEED = {self.train.seed}  # of the order of samples")
        if self.recipe.device != "cpu":
            lines.append(f"DEVICE = {literal(self.recipe.device)}")
        if self.recipe.data and self.recipe.data[0] != "digits":
            self.lifter.imports.add("from pathlib import Path")
            lines.append(f"DATA = {literal(self.recipe.data[1])}")
        return lines

    def reading(self, beside: str) -> list[str]:
        """Return the lines that read the data.

        Args:
            beside: the name of the file for tensors that are in no file yet.
        """
        add = self.lifter.imports.add
        add("import torch")
        add("from torch import Tensor")
        name, folder = self.recipe.data or ("", Path())
        if not name:
            return [*self.beside(beside), *self.from_tensors(), *self.datasets()]
        first = self.beside(beside) if self.recipe.initial else []
        lines = self.from_digits() if name == "digits" else self.from_idx(folder)
        return [*first, *lines, *self.datasets()]

    def beside(self, name: str) -> list[str]:
        """Return the line that reads the tensors beside the script."""
        self.lifter.imports.add("from pathlib import Path")
        self.lifter.imports.add("from safetensors.torch import load_file")
        return [f"data = load_file(Path(__file__).with_name({literal(name)}))"]

    def from_idx(self, folder: Path) -> list[str]:
        """Return the lines that read MNIST or Fashion-MNIST."""
        packed = (folder / f"{TRAIN_X}.gz").is_file()
        read = '(DATA / f"{name}%s").read_bytes()' % (".gz" if packed else "")
        if packed:
            self.lifter.imports.add("import gzip")
            read = f"gzip.decompress({read})"
        return READ_IDX.replace("READ", read).strip("\n").split("\n")

    def from_digits(self) -> list[str]:
        """Return the lines that read scikit-learn's digits, and split them as the run did."""
        split = self.lifter.lift(draw_parts)
        self.lifter.imports.add("from sklearn.datasets import load_digits")
        seed = self.recipe.config.split_seed if self.recipe.config else 0
        return READ_DIGITS.format(split=split, seed=seed).strip("\n").split("\n")

    def from_tensors(self) -> list[str]:
        """Return the lines that take the data from the file beside the script, and keep them."""
        lines = []
        for part, names in (("train", NAMES[:2]), ("valid", NAMES[2:])):
            server = getattr(self, part)
            if server is None:
                continue
            is_bytes = isinstance(server.dataset, ImageDataset)
            tensors = tensors_of(server.dataset)
            self.tensors |= dict(zip(names, tensors, strict=True))
            change = ".float().div_(256)" if is_bytes else ""
            x, y = names
            lines.append(f'{x}, {y} = data["{x}"]{change}, data["{y}"]')
        return lines

    def datasets(self) -> list[str]:
        """Return the lines that make data sets and loaders of tensors, where there are any."""
        if self.by_index:
            return []
        self.lifter.imports.add("from torch.utils.data import DataLoader")
        self.lifter.imports.add("from torch.utils.data import TensorDataset")
        lines = ["train_ds = TensorDataset(x_train, y_train)"]
        if self.train.is_stock:
            lines += self.stock("train", "BATCH_SIZE")
        if self.valid is None:
            return lines
        lines.append("valid_ds = TensorDataset(x_valid, y_valid)")
        if self.valid.is_stock:
            return [*lines, *self.stock("valid", self.valid_size())]
        rows = f"rows = torch.arange(len(x_valid)).split({self.valid_size()})"
        why = "# A generator of its own: what a DataLoader draws must not change dropout."
        return [*lines, rows, why, loader("valid")]

    def stock(self, part: str, size: str) -> list[str]:
        """Return the lines that make a `DataLoader` as the user made it."""
        server = self.train if part == "train" else self.valid
        assert server is not None
        arguments = [f"{part}_ds", f"batch_size={size}"]
        arguments += ["shuffle=True"] * server.shuffle + ["drop_last=True"] * server.drop_last
        lines = []
        state, order = self.recipe.order_states.get(part), self.order(part)
        if state is not None and order == f"{part}_order":
            self.tensors[order] = state
            lines = [f"{order} = torch.Generator()", f'{order}.set_state(data["{order}"])']
        if server.sampler is not None:
            arguments.append(f"sampler={self.sampler(server.sampler, part)}")
        elif state is not None:
            arguments.append(f"generator={order}")
        if server.collate_fn is not default_collate:
            arguments.append(f"collate_fn={expression(server.collate_fn, self.lifter)}")
        return [*lines, f"{part}_dl = DataLoader({', '.join(arguments)})"]

    def order(self, part: str) -> str:
        """Return what the generator of a stock loader is called; both loaders may have one."""
        train, own = (generator_of(getattr(self.recipe, f"{p}_dl")) for p in ("train", part))
        return "train_order" if own is train else f"{part}_order"

    def sampler(self, sampler: Any, part: str) -> str:
        """Return the call that makes a sampler like the user's; tensors of it are beside."""
        options = {}
        for name in inspect.signature(type(sampler)).parameters:
            given = getattr(sampler, name, None)
            if name == "data_source":
                options[name] = f"{part}_ds"
            elif isinstance(given, torch.Generator):
                options[name] = self.order(part)
            elif isinstance(given, Tensor):
                self.tensors[f"{part}_{name}"] = given
                options[name] = f'data["{part}_{name}"]'
            elif given is not None:
                options[name] = expression(given, self.lifter)
        return call(named(type(sampler), self.lifter), [], options)

    def draws_order(self) -> bool:
        """Return whether the order of samples is drawn from a stream of our own."""
        return self.train.shuffle and not self.train.is_stock

    def train_heading(self) -> list[str]:
        """Return the lines that begin the loop over an epoch's batches."""
        if self.train.is_stock:
            return ["for xb, yb in train_dl:", *self.batch("train")]
        size = "BATCH_SIZE"
        n = len(self.train.dataset)
        order = f'torch.randperm(len(x_train), generator=stream(SEED, "order", {self.epoch()}))'
        if self.train.seed != self.recipe.seed:
            order = order.replace("SEED", "ORDER_SEED")
        if not self.train.shuffle:
            order = "torch.arange(len(x_train))"
        rows = f"order.split({size})"
        if self.train.drop_last and n % self.train.batch_size:
            rows += "[:-1]"  # the last batch is not full
        lines = [f"order = {order}"]
        if self.by_index:
            return [*lines, f"for rows in {rows}:", *self.batch("train")]
        return [
            *lines,
            f"rows = {rows}",
            loader("train"),
            "for xb, yb in train_dl:",
            *self.batch("train"),
        ]

    def valid_size(self) -> str:
        """Return the size of a validation batch."""
        assert self.valid is not None
        times, rest = divmod(self.valid.batch_size, self.train.batch_size)
        if rest:
            return str(self.valid.batch_size)
        return "BATCH_SIZE" if times == 1 else f"{times} * BATCH_SIZE"

    def valid_heading(self) -> list[str]:
        """Return the lines that begin the loop over the validation batches."""
        if not self.by_index:
            return ["for xb, yb in valid_dl:", *self.batch("valid")]
        heading = f"for rows in torch.arange(len(x_valid)).split({self.valid_size()}):"
        return [heading, *self.batch("valid")]

    def batch(self, part: str) -> list[str]:
        """Return the lines that make a batch of what the loop is over."""
        lines = [f"xb, yb = x_{part}[rows], y_{part}[rows]"] if self.by_index else []
        moved = [] if self.recipe.device == "cpu" else ["xb, yb = xb.to(DEVICE), yb.to(DEVICE)"]
        for func in getattr(self, part).funcs:
            if isinstance(func, AugmentedLoader):
                lines += moved + self.augmented(func)
                moved = []
            else:
                lines.append(f"xb, yb = {self.funcs[id(func)]}(xb, yb)")
        return [f"    {line}" for line in lines + moved]

    def augmented(self, dl: AugmentedLoader) -> list[str]:
        """Return the lines that augment a batch: a call of each function, in turn."""
        seed = "SEED" if dl.seed == self.recipe.seed else str(dl.seed)
        lines = [f'generator = stream({seed}, "augment", {self.epoch()}, len(sizes))']
        for step, mixes in zip(dl.func.steps, dl.func.mixing, strict=True):
            function, keywords = step, {}
            if isinstance(step, partial) and not step.args:
                function, keywords = step.func, step.keywords
            given = {name: expression(value, self.lifter) for name, value in keywords.items()}
            batch = ["xb", "yb"] if mixes else ["xb"]
            made = call(expression(function, self.lifter), [*batch, "generator"], given)
            lines.append(f"{', '.join(batch)} = {made}")
        return lines

    def epoch(self) -> str:
        """Return the number of the epoch, as the loader counts them."""
        first = self.recipe.first_epoch
        return f"epoch + {first}" if first else "epoch"


def loader(part: str) -> str:
    """Return the statement that makes a loader of whole batches: its rows are its samples."""
    arguments = "batch_size=None, sampler=rows, generator=torch.Generator()"
    return f"{part}_dl = DataLoader({part}_ds, {arguments})"


def served(dl: Any) -> Served:
    """Return what a loader does.

    Raises:
        EjectError: if that is not known.
    """
    match dl:
        case WrappedDataLoader():
            inner = served(dl.dl)
            inner.funcs.append(dl if isinstance(dl, AugmentedLoader) else dl.func)
            return inner
        case TensorLoader(dataset=dataset):
            return Served(dataset, dl.batch_size, dl.shuffle, dl.seed, dl.drop_last)
        case SampleLoader(sampler=order, dataset=SampleBatches(dataset=dataset)):
            return Served(dataset, order.batch_size, order.shuffle, order.seed, order.drop_last)
        case DataLoader(sampler=order, dataset=dataset) if is_plain(dl):
            # Workers are left out: they change no bits, and the script's data is in memory.
            shuffle = is_usual(order) and isinstance(order, RandomSampler)
            own, size = None if is_usual(order) else order, dl.batch_size or 1
            return Served(dataset, size, shuffle, 0, dl.drop_last, True, own, dl.collate_fn)
        case [*batches] if is_even(batches):
            x, y = (torch.cat(part) for part in zip(*batches, strict=True))
            return Served(TensorDataset(x, y), len(batches[0][0]), False, 0, False)
    raise EjectError(
        f"a script must know the order of the batches, and this {type(dl).__name__} does not tell "
        "it; serve the data by plainfit.get_data, by a DataLoader without a batch_sampler or "
        "persistent workers, or by a list of pairs of tensors, all of one size but the last"
    )


def is_plain(dl: Any) -> bool:
    """Return whether a `DataLoader` has only options that a script can repeat."""
    own = dl.generator
    same = own is getattr(dl.sampler, "generator", own) if is_usual(dl.sampler) else own is None
    return (
        type(dl) is DataLoader
        and dl.batch_size is not None
        and type(dl.batch_sampler) is BatchSampler
        and dl.batch_sampler.sampler is dl.sampler
        # What a collate_fn is given is then what it was given: pairs of tensors.
        and (dl.collate_fn is default_collate or isinstance(dl.dataset, TensorDataset))
        and same
        and not dl.persistent_workers
    )


def is_usual(order: Any) -> bool:
    """Return whether a sampler is what `shuffle` makes: all rows, in order or not."""
    return (
        type(order) in (RandomSampler, SequentialSampler)
        and not getattr(order, "replacement", False)
        and len(order) == len(order.data_source)
    )


def is_even(batches: list[Any]) -> bool:
    """Return whether batches are pairs of tensors that are cut from two: of one size and kind."""
    if not all(
        isinstance(batch, tuple | list)
        and len(batch) == 2
        and all(isinstance(part, Tensor) and part.dim() for part in batch)
        for batch in batches
    ):
        return False
    kinds = {tuple((part.dtype, part.shape[1:]) for part in batch) for batch in batches}
    *sizes, last = [len(x) for x, _ in batches]
    return len(kinds) == 1 and len({*sizes}) <= 1 and last <= min(sizes, default=last)


def tensors_of(dataset: Dataset[Any]) -> list[Tensor]:
    """Return a data set's inputs and targets as tensors.

    Raises:
        EjectError: if it has others, or reading it twice gives two things.
    """
    if isinstance(dataset, TensorDataset):
        if len(dataset.tensors) != 2:
            raise EjectError(
                "a script reads inputs and targets, and the data set has "
                f"{len(dataset.tensors)} tensors"
            )
        return [tensor.cpu().contiguous() for tensor in dataset.tensors]
    if isinstance(dataset, LazySamples):
        raise EjectError(
            "a script's data must fit into memory, and these are read from disk as they are used; "
            "train with a larger --memory-budget"
        )
    first, again = (read_all(dataset, seed) for seed in (0, 1))
    for one, other in zip(first, again, strict=True):
        if not torch.equal(one, other):
            raise EjectError(
                f"{place(type(dataset))}: data must be the same whenever they are read, and this "
                "data set gives other values the second time; move what draws random numbers into "
                "the training (an augmentation of batches)"
            )
    return first


def read_all(dataset: Dataset[Any], seed: int) -> list[Tensor]:
    """Return all samples of a data set, stacked."""
    with drawing_from(seed, "eject"):
        count = len(dataset)  # type: ignore[arg-type]
        samples = [dataset[row] for row in range(count)]
    batch = default_collate(samples)
    if not (isinstance(batch, list | tuple) and len(batch) == 2):
        raise EjectError("a script reads inputs and targets, and the data set gives other samples")
    return [part if isinstance(part, Tensor) else torch.as_tensor(part) for part in batch]

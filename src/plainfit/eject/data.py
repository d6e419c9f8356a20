"""The data in a script: how it is read, and the order in which its batches come."""

import inspect
from collections.abc import Iterator, Mapping
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
from plainfit.common.seeding import drawing_from
from plainfit.data.batches import call_form, generators_of, inputs_and_target, with_tuples
from plainfit.data.datasets import ImageDataset, Rows
from plainfit.data.loaders import (
    AugmentedLoader,
    Balanced,
    BatchOrder,
    SampleBatches,
    SampleLoader,
    TensorLoader,
    WrappedDataLoader,
)
from plainfit.data.mnist import TRAIN_SIZE, TRAIN_X, TRAIN_Y
from plainfit.data.ondisk import LazySamples
from plainfit.data.parts import USUAL, Split, draw_parts
from plainfit.eject.lifting import Lifter
from plainfit.eject.recipe import Recipe
from plainfit.eject.source import literal, place, rendered
from plainfit.eject.values import call, expression, named
from plainfit.training.program_batches import resident_rows


@dataclass
class Served:
    """What a script needs to know of a loader."""

    dataset: Any
    batch_size: int
    shuffle: bool
    seed: int
    drop_last: bool
    is_stock: bool = False  # True for a `DataLoader` of the user's
    sampler: Any = None  # of the user's, where shuffle does not say it all
    collate_fn: Any = default_collate
    funcs: list[Any] = field(default_factory=list)  # what a batch passes through
    is_balanced: bool = False

    def rows(self, order: str, size: str) -> str:
        """Return the text of its batches' rows, without a last one that is not full, if dropped."""
        is_cut = self.drop_last and len(self.dataset) % self.batch_size
        return f"{order}.split({size}){'[:-1]' * bool(is_cut)}"


class DataText:
    def __init__(self, recipe: Recipe, lifter: Lifter, level: str) -> None:
        self.recipe = recipe
        self.lifter = lifter
        self.by_index = level != "loop"
        self.program = recipe.compile == "epoch"
        self.train = served(recipe.train_dl)
        self.valid = served(recipe.valid_dl) if recipe.valid_dl is not None else None
        self.tensors: dict[str, Tensor] = {}  # what is written to the file beside the script
        self.loaders = [self.train, *([self.valid] if self.valid else [])]
        self.funcs = [func for loader in self.loaders for func in loader.funcs]
        inputs, _ = inputs_and_target(first_batch(self.train))
        if isinstance(inputs, Mapping):
            raise EjectError(
                "a script has batches of tensors, and those of this training are mappings; give "
                "the model its inputs in a tuple, with the target at its end"
            )
        self.several = isinstance(inputs, tuple)
        form = call_form(recipe.model, inputs)
        self.given = "tuple(xb)" if self.several and form == "xb" else form
        if self.several and (self.funcs or recipe.compile):
            raise EjectError(
                "a script with several inputs, or weights of samples, has neither compile nor a "
                "WrappedDataLoader; train without, or do its work in the model or the dataset"
            )
        rows = resident_rows(recipe.train_dl) if self.program else None
        self.gathers = rows is not None
        self.is_bytes = rows is not None and isinstance(rows.parts[0], ImageDataset)
        """Whether the program turns bytes into floats."""
        draws = self.train.shuffle or self.train.is_balanced
        self.draws_order = draws and not self.train.is_stock
        if self.valid is not None and self.valid.shuffle:
            raise EjectError(
                "a script validates in the order of the data, and this training shuffled it; "
                "pass a validation loader without shuffle"
            )

    def limits(self) -> Iterator[EjectError]:
        if any(loader.is_stock for loader in self.loaders):
            yield EjectError("a stock DataLoader draws the order in a way of its own", "loop")
        if any(getattr(func, "mixes_labels", False) for func in self.funcs):
            yield EjectError(
                "mixed labels are class probabilities, and the loss of level tensors takes labels",
                "layers",
            )

    def gives_images(self) -> bool:
        first = self.train.dataset[0][0]
        is_changed = any(not isinstance(func, AugmentedLoader) for func in self.funcs)
        return isinstance(first, Tensor) and first.dim() == 3 and not is_changed

    def reading(self) -> list[str]:
        name, folder = self.recipe.data or ("", Path())
        packed = ".gz" if (folder / f"{TRAIN_X}.gz").is_file() else ""
        read = f'(DATA / f"{{name}}{packed}").read_bytes()'
        config = self.recipe.config
        split = USUAL
        if config:
            shares = config.valid_share, config.test_share
            split = Split(config.split_seed, *shares, config.stratify)
        facts = {
            "name": name,
            "split": self.lifter.lift(draw_parts) if name == "digits" else "",
            "strata": "labels" if split.stratify else "labels * 0",
            "shares": literal(split.missing(name, ["train"])),
            "split_seed": split.seed,
            "read": f"gzip.decompress({read})" if packed else read,
            "images": TRAIN_X,
            "labels": TRAIN_Y,
            "train_size": f"{TRAIN_SIZE:_}",
            "from_file": [] if name else self.to_file(),
            "validates": self.valid is not None and not self.recipe.valid_program,
            "valid_rows": self.valid_rows(),
            "by_index": self.by_index,
            "is_bytes": self.is_bytes,
            "program": self.program,
            "several": self.several,
            "stock_train": self.stock("train", "BATCH_SIZE"),
            "stock_valid": self.stock("valid", self.valid_size()),
        }
        return rendered("data.py.jinja", facts)

    def to_file(self) -> list[tuple[str, str]]:
        """Keep the data for the file beside the script; return the inputs of each part."""
        parts = []
        for part, loader in zip(("train", "valid"), self.loaders, strict=False):
            *inputs, y = tensors_of(loader.dataset)
            names = [f"x_{part}_{at}" for at in range(len(inputs))] if inputs[1:] else [f"x_{part}"]
            self.tensors |= {**dict(zip(names, inputs, strict=True)), f"y_{part}": y}
            reads = isinstance(loader.dataset, ImageDataset)
            if part == "train" and self.is_bytes:
                reads = False
            loaded = [f'data["{name}"]{".float().div_(256)" * reads}' for name in names]
            parts.append((part, f"[{', '.join(loaded)}]" if inputs[1:] else loaded[0]))
        return parts

    def stock(self, part: str, size: str) -> list[str]:
        """Return the lines that make a `DataLoader` as the user made it; none for one of ours."""
        loader = self.train if part == "train" else self.valid
        if loader is None or not loader.is_stock or self.by_index:
            return []
        arguments = [f"{part}_ds", f"batch_size={size}"]
        arguments += ["shuffle=True"] * loader.shuffle + ["drop_last=True"] * loader.drop_last
        lines = []
        state, order = self.recipe.order_states.get(part), self.order(part)
        if state is not None and order == f"{part}_order":
            self.tensors[order] = state
            lines = [f"{order} = torch.Generator()", f'{order}.set_state(data["{order}"])']
        if loader.sampler is not None:
            arguments.append(f"sampler={self.sampler(loader.sampler, part)}")
        elif state is not None:
            arguments.append(f"generator={order}")
        if loader.collate_fn is not default_collate:
            arguments.append(f"collate_fn={expression(loader.collate_fn, self.lifter)}")
        return [*lines, f"{part}_dl = DataLoader({', '.join(arguments)})"]

    def order(self, part: str) -> str:
        """Return the name of the generator of a stock loader; both loaders may share one."""
        train, own = (generators_of(getattr(self.recipe, f"{p}_dl")) for p in ("train", part))
        return "train_order" if own[:1] == train[:1] else f"{part}_order"

    def sampler(self, sampler: Any, part: str) -> str:
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

    def batches(self) -> dict[str, Any]:
        first = self.recipe.first_epoch
        epoch = f"epoch + {first}" if first else "epoch"  # as the loader counts them
        seed = "SEED" if self.train.seed == self.recipe.seed else "ORDER_SEED"
        drawn = "torch.randperm(len(y_train)"
        if self.train.is_balanced:
            weights = "1 / y_train.bincount()[y_train].double()"
            drawn = f"torch.multinomial({weights}, len(y_train), replacement=True"
        order = f'{drawn}, generator=stream({seed}, "order", {epoch}))'
        return {
            "by_index": self.by_index,
            "gathers": self.gathers,
            "given": self.given,
            "is_bytes": self.is_bytes,
            "steps": len(self.train.dataset) // self.train.batch_size,
            "several": self.several,
            "order": order if self.draws_order else "torch.arange(len(y_train))",
            "stock": self.train.is_stock,
            "train_batch": self.batch(self.train, epoch),
            "train_rows": self.train.rows("order", "BATCH_SIZE"),
            "valid_batch": self.batch(self.valid, epoch) if self.valid else [],
            "valid_rows": self.valid_rows(),
        }

    def valid_rows(self) -> str:
        order = "torch.arange(len(y_valid))"
        return self.valid.rows(order, self.valid_size()) if self.valid else ""

    def valid_size(self) -> str:
        if self.valid is None:
            return ""
        times, rest = divmod(self.valid.batch_size, self.train.batch_size)
        if rest:
            return str(self.valid.batch_size)
        return "BATCH_SIZE" if times == 1 else f"{times} * BATCH_SIZE"

    def batch(self, loader: Served, epoch: str) -> list[str]:
        lines: list[str] = []
        x = "[x.to(DEVICE) for x in xb]" if self.several else "xb.to(DEVICE)"
        moved = [] if self.recipe.device == "cpu" else [f"xb, yb = {x}, yb.to(DEVICE)"]
        for func in loader.funcs:
            if isinstance(func, AugmentedLoader):
                lines += moved + self.augmented(func, epoch)
                moved = []
            else:
                lines.append(f"xb, yb = {expression(func, self.lifter)}(xb, yb)")
        return lines + moved

    def augmented(self, dl: AugmentedLoader, epoch: str) -> list[str]:
        seed = "SEED" if dl.seed == self.recipe.seed else str(dl.seed)
        place = "step, piece" if self.recipe.shards else "len(sizes)"
        lines = [f'generator = stream({seed}, "augment", {epoch}, {place})']
        for step, mixes in zip(dl.func.steps, dl.func.mixing, strict=True):
            function, keywords = step, {}
            if isinstance(step, partial) and not step.args:
                function, keywords = step.func, step.keywords
            given = {name: expression(value, self.lifter) for name, value in keywords.items()}
            batch = ["xb", "yb"] if mixes else ["xb"]
            made = call(expression(function, self.lifter), [*batch, "generator"], given)
            lines.append(f"{', '.join(batch)} = {made}")
        return lines


def first_batch(loader: Served) -> Any:
    with drawing_from(0, "eject"):
        batch = loader.collate_fn([loader.dataset[0]])
    return with_tuples(batch) if loader.collate_fn is default_collate else batch


def served(dl: Any) -> Served:
    match dl:
        case WrappedDataLoader():
            inner = served(dl.dl)
            inner.funcs.append(dl if isinstance(dl, AugmentedLoader) else dl.func)
            return inner
        case TensorLoader(dataset=dataset, rows_from=None | Balanced()):
            return of_order(dl, dataset)
        case SampleLoader(
            sampler=order, dataset=SampleBatches(dataset=dataset, collate_fn=func)
        ) if isinstance(order.rows_from, Balanced | None) and func is default_collate:
            return of_order(order, dataset)
        case TensorLoader() | SampleLoader():
            raise EjectError(
                "a script repeats what get_data does without a sampler or collate_fn of your own; "
                "pass a DataLoader with them to fit"
            )
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


def of_order(order: BatchOrder, dataset: Any) -> Served:
    own = (order.batch_size, order.shuffle, order.seed, order.drop_last)
    return Served(dataset, *own, is_balanced=order.rows_from is not None)


def is_plain(dl: Any) -> bool:
    """Return whether a `DataLoader` has only options that a script can repeat."""
    own = dl.generator
    same = own is getattr(dl.sampler, "generator", own) if is_usual(dl.sampler) else own is None
    return (
        type(dl) is DataLoader
        and dl.batch_size is not None
        and type(dl.batch_sampler) is BatchSampler
        and dl.batch_sampler.sampler is dl.sampler
        # A collate_fn gets pairs of tensors in the script, so it must have got them before.
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
    """Return whether batches are pairs of tensors of one kind, and of one size but the last."""
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
    if isinstance(dataset, TensorDataset):
        return inputs_and_targets(dataset.tensors)
    rows = Rows.of(dataset)
    if any(isinstance(part, LazySamples) for part in (rows.parts if rows else [dataset])):
        raise EjectError(
            "a script's data must fit into memory, and these are read from disk as they are used; "
            "train with a larger memory_budget"
        )
    if rows is not None:
        return inputs_and_targets(rows.gather(rows.at.to(rows.device)))
    first, again = (read_all(dataset, seed) for seed in (0, 1))
    for one, other in zip(first, again, strict=True):
        if not torch.equal(one, other):
            raise EjectError(
                f"{place(type(dataset))}: samples must be the same whenever they are read, and "
                "this dataset gives other values the second time; draw random numbers in an "
                "augmentation of batches instead"
            )
    return first


def read_all(dataset: Dataset[Any], seed: int) -> list[Tensor]:
    with drawing_from(seed, "eject"):
        count = len(dataset)  # type: ignore[arg-type]
        samples = [dataset[row] for row in range(count)]
    return inputs_and_targets(default_collate(samples))


def inputs_and_targets(batch: Any) -> list[Tensor]:
    if not (isinstance(batch, list | tuple) and batch):
        raise EjectError("a script reads inputs and targets, and the dataset gives other samples")
    inputs, *others = (torch.as_tensor(part).cpu().contiguous() for part in batch)
    return [inputs, *(others or [inputs])]  # inputs alone are their own target

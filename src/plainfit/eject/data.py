"""The data in a script: how it is read, and in which order its batches come."""

import inspect
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from plainfit.common.errors import EjectError
from plainfit.common.seeding import seed_at, stream
from plainfit.data.loaders import ImageDataset
from plainfit.data.mnist import TRAIN_SIZE, TRAIN_X, TRAIN_Y
from plainfit.data.splits import draw_parts
from plainfit.data.wrapping import AugmentedLoader
from plainfit.eject.inlining import inline
from plainfit.eject.lifting import Lifter
from plainfit.eject.loaders import served, tensors_of
from plainfit.eject.recipe import Recipe
from plainfit.eject.values import call, expression, named
from plainfit.training.fit_call import generator_of

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


class DataText:
    """The lines of a script that are about data."""

    def __init__(self, recipe: Recipe, lifter: Lifter, rung: str) -> None:
        self.recipe = recipe
        self.lifter = lifter
        self.by_index = rung != "loop"
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
            inline(stream, seed_at, self.lifter)
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
        """Return why the loaders stop above the lowest rung, if they do."""
        return [limit for server in (self.train, self.valid) if server for limit in server.limits()]

    def gives_images(self) -> bool:
        """Return whether the model is given images as they are, and no flat vectors."""
        first = self.train.dataset[0][0]
        return isinstance(first, Tensor) and first.dim() == 3 and not self.funcs

    def settings(self) -> list[str]:
        """Return the constants that say where the data is."""
        if self.recipe.data and self.recipe.data[0] != "digits":
            self.lifter.imports.add("from pathlib import Path")
            return [f'DATA = Path("{self.recipe.data[1].as_posix()}")']
        return []

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
        return [f'data = load_file(Path(__file__).with_name("{name}"))']

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

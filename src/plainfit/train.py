"""From settings to a run: data, model, `fit`, test, folder."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from plainfit import runs
from plainfit.build import get_model
from plainfit.callbacks import JsonLinesLog
from plainfit.config import DATA_FIELDS, RunConfig
from plainfit.data.loaders import Loader, get_data, make_loader
from plainfit.data.sources import open_data
from plainfit.data.splits import DataSplits
from plainfit.devices import device_of, fingerprint, versions
from plainfit.errors import ModelError
from plainfit.history import History
from plainfit.loop import Callback, fit, validate
from plainfit.metrics import accuracy
from plainfit.summary import count_parameters, try_batch

MOST_WORKERS = 4  # processes that decode images; more wait for each other on a small machine


@dataclass(frozen=True)
class RunResult:
    """A training that has ended."""

    folder: Path
    history: History
    test: dict[str, float] | None
    """Loss and accuracy on the test set, which is read once, here; None if there is none."""
    takes_images: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the result for machines."""
        return {"run": str(self.folder), "epochs": self.history.to_dicts(), "test": self.test}


def train(
    config: RunConfig,
    *,
    echo: Callable[[str], None] | None = print,
    callbacks: Sequence[Callback] = (),
) -> RunResult:
    """Train as the settings say, and leave a run folder.

    Args:
        config: the settings.
        echo: is given each line of the report; None for silence.
        callbacks: further observers.

    Raises:
        PlainfitError: if the settings, the data, the model or the folder cannot be used; nothing
            is written then.
    """
    say = echo or (lambda line: None)
    data = open_data(config.data, **{name: getattr(config, name) for name in DATA_FIELDS})
    model, opt = get_model(
        config.model,
        optimizer=config.optimizer,
        lr=config.lr,
        momentum=config.momentum,
        input_shape=data.input_shape,
        classes=len(data.classes),
        seed=config.seed,
        device=config.device,
    )
    workers = min(MOST_WORKERS, os.cpu_count() or 1)
    train_dl, valid_dl = get_data(
        data.train, data.valid, config.batch_size, seed=config.seed, num_workers=workers
    )
    check_outputs(model, valid_dl, len(data.classes))
    folder = config.out or runs.default_folder(config.data, config.model)
    runs.create_folder(folder)
    record = make_record(config, data, model, opt)
    runs.write_record(folder, record)
    say(describe(data, model))

    history = fit(
        config.epochs,
        model,
        F.cross_entropy,
        opt,
        train_dl,
        valid_dl,
        metrics=[accuracy],
        callbacks=[JsonLinesLog(folder / runs.METRICS), *callbacks],
        echo=echo,
    )
    test = None
    if data.test is not None:
        test_dl = make_loader(data.test, config.batch_size * 2, False, num_workers=workers)
        test = validate(model, F.cross_entropy, test_dl, metrics=[accuracy])
    runs.write_weights(folder, model)
    runs.write_whole(folder / runs.CURVES, lambda path: history.plot().savefig(path, dpi=120))
    runs.write_record(folder, record | {"state": "finished", "test": test, "last": history[-1]})
    return RunResult(folder, history, test, len(data.input_shape) == 3)


def check_outputs(model: nn.Module, valid_dl: Loader, classes: int) -> None:
    """Check, before anything is written, that the model takes the data and scores every class."""
    xb, yb = next(iter(valid_dl))
    out = try_batch(model, xb)
    if not isinstance(out, Tensor) or out.shape != (len(yb), classes):
        got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise ModelError(
            f"the model must give one score for each of the {classes} classes, shape "
            f"({len(yb)}, {classes}) for {len(yb)} samples, got {got}; a parameter `classes` of "
            "your class or function receives their number"
        )


def make_record(config: RunConfig, data: DataSplits, model: nn.Module, opt: Any) -> dict[str, Any]:
    """Return `run.json` as it stands when training starts."""
    options = {name: value for name, value in opt.defaults.items() if name != "params"}
    return {
        "state": "started",
        "config": config.to_dict(),
        "model": model.plainfit_factory.to_dict(),  # type: ignore[union-attr,operator]
        "optimizer": {"name": type(opt).__name__, "options": options},
        "loss": "torch.nn.functional:cross_entropy",
        "data": data.to_dict(),
        "versions": versions(),
        "fingerprint": fingerprint(device_of(model)),
    }


def describe(data: DataSplits, model: nn.Module) -> str:
    """Return what is trained on what, in two lines and one for each note."""
    counts = ", ".join(f"{count:,} {part}" for part, count in data.counts().items())
    shape = "x".join(map(str, data.input_shape))
    lines = [
        f"data   {data.name}: {counts}; {len(data.classes)} classes; samples of {shape}",
        *(f"note   {note}" for note in data.notes),
        f"model  {type(model).__name__}: {count_parameters(model):,} parameters on "
        f"{device_of(model)}",
    ]
    return "\n".join(lines)

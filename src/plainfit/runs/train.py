"""From settings to a run: `fit` with everything around it, and a run folder."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from plainfit.common.devices import cpu_threads
from plainfit.common.errors import ConfigError, PlainfitError, RunError, TrainingError
from plainfit.data.loaders import make_loader
from plainfit.models.weights import save_weights
from plainfit.runs import folder as runs
from plainfit.runs.prepare import (
    Parts,
    Say,
    check_outputs,
    describe,
    find_rate,
    loss_function,
    make_record,
    observers,
    prepare,
    schedule_of,
    threads_of,
    transformers,
)
from plainfit.runs.settings import RunConfig
from plainfit.training import callbacks as cb
from plainfit.training.history import History
from plainfit.training.hooks import Callback
from plainfit.training.loop import fit, validate
from plainfit.training.metrics import accuracy


@dataclass(frozen=True)
class RunResult:
    """A training that has ended."""

    folder: Path
    history: History
    test: dict[str, float] | None
    """Loss and accuracy on the test set, which is used once, here; None without a test set."""
    takes_images: bool

    def to_dict(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return {
            "run": str(self.folder),
            "epochs": self.history.to_dicts(),
            "stopped": self.history.stopped,
            "test": self.test,
        }


def train(
    config: RunConfig, *, echo: Say | None = print, callbacks: Sequence[Callback] = ()
) -> RunResult:
    """Train with these settings, and leave a run folder.

    `echo` is called with each line of the report. The callbacks must only observe, and say so by
    `observer = True` in their class: the run folder does not record them for resume and eject.

    Raises:
        PlainfitError: if the settings, the data, the model or the folder cannot be used; nothing
            is written then.
        TrainingError: if the training has to stop.
        KeyboardInterrupt: after Ctrl-C, when everything is saved.
    """
    say = echo or (lambda line: None)
    check_callbacks(callbacks)
    parts = prepare(config)
    check_outputs(parts.model, parts.valid_dl, len(parts.data.classes))
    folder = config.out or runs.default_folder(config.data, config.model)
    runs.create_folder(folder)
    say(describe(parts))
    with cpu_threads(threads_of(parts)):
        if config.lr == "auto":
            find_rate(parts, say)
        if config.source is not None:
            runs.write_whole(folder / runs.FIRST, lambda path: save_weights(path, parts.model))
        runs.write_record(folder, make_record(parts))
        return run_fit(parts, folder, echo, callbacks, resume=False)


def resume(
    folder: Path,
    *,
    epochs: int | None = None,
    echo: Say | None = print,
    callbacks: Sequence[Callback] = (),
) -> RunResult:
    """Continue a run from its newest valid checkpoint, to the bits of an unbroken run.

    A finished run continues to a larger number of `epochs` in all.
    """
    say = echo or (lambda line: None)
    check_callbacks(callbacks)
    run = runs.open_run(folder)
    record, config = run.record, replace(run.config, out=folder)
    if record["state"] == "finished" and (epochs or 0) <= config.epochs:
        raise RunError(
            f"a finished run continues with more epochs only, and {folder} has finished its "
            f"{config.epochs}: plainfit resume {folder} --epochs {2 * config.epochs}"
        )
    parts = prepare(replace(config, epochs=epochs or config.epochs), run)
    say(describe(parts))
    lengths = record.get("lengths", [])
    if parts.config.epochs != config.epochs:  # a schedule spans all epochs, so it changes here
        lengths = [*lengths, {"from_epoch": len(run.epochs), "epochs": parts.config.epochs}]
    first = record.get("first_epochs", config.epochs)
    runs.update_record(folder, state="started", lengths=lengths, first_epochs=first)
    with cpu_threads(threads_of(parts)):
        return run_fit(parts, folder, echo, callbacks, resume=True)


def check_callbacks(callbacks: Sequence[Callback]) -> None:
    for callback in callbacks:
        if not callback.observer:
            name = type(callback).__name__
            raise ConfigError(
                "the callbacks of a run must change nothing of the training, since its folder does "
                f"not record them; if {name} does not, say so by `observer = True` in its class, "
                "or else pass it to plainfit.fit"
            )


def run_fit(
    parts: Parts, folder: Path, echo: Say | None, callbacks: Sequence[Callback], *, resume: bool
) -> RunResult:
    """Train or continue, then test and write the results."""
    config, say = parts.config, echo or (lambda line: None)
    added = [*transformers(config, parts.groups), *observers(config, folder), *callbacks]
    try:
        with torch.autograd.set_detect_anomaly(config.detect_anomaly):
            history = fit(
                config.epochs,
                parts.model,
                loss_function(config),
                parts.opt,
                parts.train_dl,
                parts.valid_dl,
                metrics=[accuracy],
                callbacks=added,
                schedule=schedule_of(config, len(parts.train_dl)),
                checkpoint=cb.Checkpointing(
                    folder / runs.CHECKPOINTS, every_steps=config.checkpoint_every
                ),
                resume=resume,
                precision=config.precision,
                compile=config.compile,
                keep_memory=config.keep_memory,
                echo=echo,
            )
    except (KeyboardInterrupt, SystemExit):
        runs.update_record(folder, state="interrupted")
        say(f"stopped; everything is saved; continue with: plainfit resume {folder}")
        raise
    except (RuntimeError, OSError, MemoryError, ArithmeticError) as error:
        runs.update_record(folder, state="failed")
        what = str(error)
        if not isinstance(error, PlainfitError):
            what = f"{type(error).__name__}: {error}"
        raise TrainingError(
            f"{what}; what was saved is in {folder}: plainfit resume {folder}"
        ) from error
    return finish(parts, folder, history, say)


def finish(parts: Parts, folder: Path, history: History, say: Say) -> RunResult:
    """Test the model and write weights, curves and the record."""
    config, data, model = parts.config, parts.data, parts.model
    test = None
    if data.test is not None:
        test_dl = make_loader(data.test, config.batch_size * 2, False, num_workers=parts.workers)
        test = validate(model, loss_function(config), test_dl, metrics=[accuracy])
    runs.write_whole(folder / runs.WEIGHTS, lambda path: save_weights(path, model))
    runs.write_whole(folder / runs.CURVES, lambda path: history.plot().savefig(path, dpi=120))
    runs.update_record(
        folder,
        state="interrupted" if history.unfinished else "finished",
        stopped=history.stopped,
        test=test,
        last=history[-1] if len(history) else None,
        best=history.best(),
        config=config.to_dict(),
        steps=len(history.step_losses),
    )
    if history.stopped:
        say(f"note   stopped early: {history.stopped}")
    return RunResult(folder, history, test, len(data.input_shape) == 3)

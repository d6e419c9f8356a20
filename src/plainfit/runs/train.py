"""From settings to a run: `fit` with everything around it, and a run folder."""

import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from plainfit.common.devices import cpu_threads, device_of, fingerprint, versions
from plainfit.common.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    RunError,
    TrainingError,
    command,
    raised_as,
    reason,
)
from plainfit.common.files import one_writer
from plainfit.data.loaders import make_loader
from plainfit.data.splits import taken
from plainfit.models.build import to_device
from plainfit.models.layers import count_parameters, parameter_groups
from plainfit.models.trust import remember
from plainfit.models.weights import Uncompiled, weights_to_bytes
from plainfit.runs import folder as runs
from plainfit.runs.prepare import (
    Parts,
    Say,
    check_outputs,
    find_rate,
    prepare,
    schedule_of,
    threads_of,
    transformers,
)
from plainfit.runs.settings import RunConfig
from plainfit.runs.tasks import (
    balanced_accuracy,
    described,
    is_imbalanced,
    loss_function,
    metrics_of,
)
from plainfit.training import callbacks as cb
from plainfit.training.callbacks.checkpointing import OF_THIS, check_epochs
from plainfit.training.callbacks.stopping import NO_BETTER
from plainfit.training.checkpoints import listed, newest
from plainfit.training.history import History
from plainfit.training.hooks import Callback, warn
from plainfit.training.loop import fit
from plainfit.training.metrics import Metric, metric_name
from plainfit.training.processes import join, restarts
from plainfit.training.session import sigterm_exits
from plainfit.training.spread import is_spread
from plainfit.training.validation import validate

PRUNED = "pruned: other trials did better by this epoch"  # why a trial of a study was stopped


def observers(config: RunConfig, folder: Path) -> list[Callback]:
    settings = {name: value for name, value in config.to_dict().items() if value is not None}
    tracked, by = folder / runs.TRACKED, config.monitor
    return [
        cb.BestWeights(folder / runs.BEST, by),
        cb.JsonLinesLog(folder / runs.METRICS),
        cb.StepLog(folder / runs.STEPS),
        *([cb.Tracking(config.track, tracked, settings)] if config.track is not None else []),
        *stoppers(config),
    ]


def stoppers(config: RunConfig) -> list[Callback]:
    by = config.monitor
    return [
        *([cb.EarlyStopping(config.patience, by)] if config.patience is not None else []),
        *([cb.TimeLimit(config.time_limit)] if config.time_limit is not None else []),
    ]


def make_record(parts: Parts) -> dict[str, Any]:
    config, data, model, opt = parts.config, parts.data, parts.model, parts.opt
    options = {name: value for name, value in opt.defaults.items() if name != "params"}
    layers = rates_of(parts)
    factory: Any = model.plainfit_factory
    code = remember(factory.target)
    loss = loss_function(config, data.target)
    options_of_loss = loss.keywords if isinstance(loss, partial) else {}
    texts = {"weight": config.class_weights}
    given = "".join(f", {n}={texts.get(n, value)}" for n, value in options_of_loss.items())
    return {
        "state": "started",
        "config": config.to_dict(),
        "model": asdict(factory),
        **({"code": code} if code else {}),
        "parameters": count_parameters(model),
        "optimizer": {"name": type(opt).__name__, "options": options},
        **({"layers": layers} if layers else {}),
        "loss": f"torch.nn.functional:{metric_name(loss)}{given}",
        "data": data.to_dict(),
        "versions": versions(),
        "fingerprint": fingerprint(device_of(model)),
        **({"job": name} if (name := job()) else {}),
    }


def rates_of(parts: Parts) -> list[dict[str, Any]]:
    layers = parameter_groups(parts.model, parts.groups, parts.config.lr_ratio)
    lr = parts.opt.defaults["lr"]
    return [
        {"layers": names, "lr": lr * factor, "parameters": sum(p.numel() for p in params)}
        for names, (params, factor) in zip(parts.groups, layers, strict=True)
    ]


def describe(parts: Parts) -> str:
    data, model = parts.data, parts.model
    counts = ", ".join(f"{count:,} {part}" for part, count in data.counts().items())
    shape = "x".join(map(str, data.input_shape))
    lines = [
        f"data   {data.name}: {counts}; {described(data.target)}; samples of {shape}",
        *(f"note   {note}" for note in data.notes),
        f"model  {type(model).__name__.removeprefix('FSDP')}: "
        f"{count_parameters(model):,} parameters on {device_of(model)}",
        *(f"rate   {row['lr']:<8.2g} {', '.join(row['layers'])}" for row in rates_of(parts)),
    ]
    return "\n".join(lines)


@dataclass(frozen=True)
class RunResult:
    """A training that has ended."""

    folder: Path
    history: History
    test: dict[str, float] | None
    """Loss and metrics on the test set, which is used once, here; None without a test set."""
    takes: str
    """What `plainfit predict` takes, such as IMAGE.png; empty if it takes none."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "run": str(self.folder),
            "epochs": self.history.to_dicts(),
            "stopped": self.history.stopped,
            "test": self.test,
        }


def train(
    config: RunConfig, *, echo: Say | None = print, callbacks: Sequence[Callback] = ()
) -> RunResult:
    """Train with these settings, and leave a run folder; `echo` gets each line of the report.

    The callbacks must only observe, and declare it with `observer = True` in their class: the run
    folder does not record them for resume and eject.

    Raises:
        PlainfitError: if the settings, the data, the model or the folder cannot be used; nothing
            is written then.
        TrainingError: if the training has to stop.
        KeyboardInterrupt: after Ctrl-C, when the current step is done and saved.
    """
    check_callbacks(callbacks)
    if join().rank == 0 and (run := begun_before(config.out)):
        return resume(run, echo=echo, callbacks=callbacks)
    parts = prepare(config)
    check_outputs(parts.model, parts.valid_dl, parts.data.target.names)
    if join().rank:
        return follow(parts, callbacks)
    folder = config.out or runs.default_folder(config.data, parts.config.model)
    runs.create_folder(folder)
    with one_writer(folder):
        runs.check_new(folder)
        return begin(parts, folder, echo, callbacks)


def begin(parts: Parts, folder: Path, echo: Say | None, callbacks: Sequence[Callback]) -> RunResult:
    config, say = parts.config, echo or (lambda line: None)
    say(describe(parts))
    with cpu_threads(threads_of(parts)):
        if config.lr == "auto":
            find_rate(parts, say)
        if config.source is not None:
            runs.write_whole(folder / runs.FIRST, weights_to_bytes(parts.model))
        runs.write_record(folder, make_record(parts))
        return run_fit(parts, folder, echo, callbacks, resume=False)


def resume(
    folder: Path,
    *,
    epochs: int | None = None,
    trust_code: bool = False,
    echo: Say | None = print,
    callbacks: Sequence[Callback] = (),
) -> RunResult:
    """Continue a run from its newest valid checkpoint, to the bits of an unbroken run.

    A finished run continues to a larger number of `epochs` in all, and gets its weights and logs
    anew if it has lost them. `trust_code` is that of `open_run`.
    """
    check_callbacks(callbacks)
    runs.read_record(folder)  # before a lock is made in a folder that is no run
    if join().rank:
        run = runs.open_run(folder, trust_code=trust_code)
        config = replace(run.config, epochs=epochs or run.config.epochs)
        return follow(prepare(config, run), callbacks)
    runs.check_own(folder)
    with one_writer(folder):
        return go_on(runs.open_run(folder, trust_code=trust_code), epochs, echo, callbacks)


def go_on(
    run: runs.Run, epochs: int | None, echo: Say | None, callbacks: Sequence[Callback]
) -> RunResult:
    say, folder = echo or (lambda line: None), run.folder
    record, config = run.record, replace(run.config, out=folder)
    is_whole = all((folder / name).exists() for name in (runs.WEIGHTS, runs.METRICS, runs.STEPS))
    is_done = record["state"] == "finished" and is_whole and not restarts()
    if is_done and (epochs or 0) <= config.epochs:
        raise RunError(
            f"a finished run continues with more epochs only, and {folder} has finished its "
            f"{config.epochs}: {command('resume', folder, '--epochs', 2 * config.epochs)}"
        )
    parts = prepare(replace(config, epochs=epochs or config.epochs), run)
    if not restarts():
        say(describe(parts))
    if not listed(folder / runs.CHECKPOINTS):
        say("note   there is no checkpoint: the training begins again")
    plan = new_plan(run, parts)  # written before the training goes on by it
    runs.update_record(folder, state="started", config=parts.config.to_dict(), **plan)
    with cpu_threads(threads_of(parts)):
        return run_fit(parts, folder, echo, callbacks, resume=True)


def new_plan(run: runs.Run, parts: Parts) -> dict[str, Any]:
    """Return the plan of a resumed run: from which step it was to have how many epochs in all.

    A schedule spans all epochs, so it is another one from the step on where their number changes.
    """
    place, epochs = run.folder / runs.CHECKPOINTS, parts.config.epochs
    found = newest(place, lambda text: None)
    with raised_as(CheckpointError, OF_THIS):
        position = found[1]["position"] if found else {"epoch": 0, "step": 0, "global_step": 0}
        check_epochs(epochs, position, place)
        start = int(position["global_step"])
    plans = {at: n for at, n in run.lengths(len(parts.train_dl)).items() if at < start or not at}
    if start == 0:
        plans = {0: epochs}
    elif list(plans.values())[-1] != epochs:
        plans[start] = epochs
    later = [{"from_step": at, "epochs": n} for at, n in plans.items() if at]
    resumed = [at for at in (*run.record.get("resumed", []), start) if 0 < at <= start]
    return {"first_epochs": plans[0], "lengths": later, "resumed": sorted(set(resumed))}


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
    """Train; the first process of several has the run folder and all output."""
    config, say = parts.config, echo or (lambda line: None)
    processes = join()
    folder = processes.share(folder)
    every = config.checkpoint_every
    checkpoint = cb.Checkpointing(folder / runs.CHECKPOINTS, every_steps=every)
    added = [*observers(config, folder), *callbacks]
    try:
        history = fitted(parts, added, checkpoint=checkpoint, resume=resume, echo=echo)
        gathered(parts)
        if processes.rank:
            return RunResult(folder, history, None, "")
        with sigterm_exits():
            return finish(parts, folder, history, say)
    except (KeyboardInterrupt, SystemExit):
        end_as(folder, "interrupted")
        saved, done = checkpoint.saved_step, checkpoint.last_step
        kept = "everything is" if saved == done else f"{saved} of {done} steps are"
        say(f"stopped; {kept} saved; continue with: {command('resume', folder)}")
        raise
    except Exception as error:  # whatever a user's model, data or disk raises
        why = ", ".join([reason(error), *getattr(error, "__notes__", ())])  # and where
        end_as(folder, "failed", stopped=why)
        raise TrainingError(
            f"{why}; what was saved is in {folder}: {command('resume', folder)}"
        ) from error


def gathered(parts: Parts) -> None:
    """Give the first process a whole model, in place of one that is spread over several."""
    if not is_spread(parts.model):
        return
    is_first = join().rank == 0
    weights = Uncompiled(parts.model).state_dict(is_kept=is_first)
    if not is_first:
        return
    factory: Any = parts.model.plainfit_factory
    parts.model = factory.build_quietly()
    parts.model.load_state_dict(weights)
    to_device(parts.model, parts.config.device, parts.config.channels_last)


def fitted(parts: Parts, callbacks: Sequence[Callback], **options: Any) -> History:
    config = parts.config
    with torch.autograd.set_detect_anomaly(config.detect_anomaly):
        return fit(
            config.epochs,
            parts.model,
            loss_function(config, parts.data.target, device_of(parts.model)),
            parts.opt,
            parts.train_dl,
            parts.valid_dl,
            metrics=metrics_of(config, parts.data.target),
            callbacks=[*transformers(config, parts.groups), *callbacks],
            schedule=schedule_of(config, len(parts.train_dl)),
            precision=config.precision,
            compile=config.compile or False,
            shards=config.shards,
            reduce=config.reduce,
            keep_memory=config.keep_memory,
            **options,
        )


def follow(parts: Parts, callbacks: Sequence[Callback]) -> RunResult:
    with cpu_threads(threads_of(parts)):
        if parts.config.lr == "auto":
            find_rate(parts, lambda line: None)
        return run_fit(parts, Path(), None, callbacks, resume=False)


def job() -> str | None:
    """Return what names this job, and its command, where it may be begun again."""
    name = os.environ.get("TORCHELASTIC_RUN_ID", "none")  # as torchrun calls a job by default
    return None if name == "none" else shlex.join([name, *sys.argv[1:]])


def begun_before(out: Path | None) -> Path | None:
    """Return the run of this job, where it has lost a process and was started again."""
    if (this := job()) is None:
        if os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0":
            raise ConfigError(
                "a job that is begun again must have a name, by which it finds its run, got "
                "torchrun --max-restarts without one; add --standalone or --rdzv-id NAME"
            )
        return None
    folders = [out] if out else sorted(Path("runs").glob("*/"), reverse=True)  # the newest first
    for folder in folders:
        with suppress(RunError):  # of a folder that is no run, or damaged
            record = runs.read_record(folder)
            if record.get("job") == this and (restarts() or record["state"] != "finished"):
                return folder
    return None


def end_as(folder: Path, state: str, **changes: str) -> None:
    """Note how a training ended, unless it has finished, or the disk is full."""
    if join().rank:
        return
    with suppress(RunError):
        if runs.read_record(folder)["state"] == "started":
            runs.update_record(folder, state=state, **changes)


def state_of(config: RunConfig, history: History) -> str:
    if len(history) >= config.epochs or history.stopped.startswith(NO_BETTER):
        return "finished"
    return "pruned" if history.stopped == PRUNED else "interrupted"


def finish(parts: Parts, folder: Path, history: History, say: Say) -> RunResult:
    config, data, model = parts.config, parts.data, parts.model
    test = None
    if data.test is not None:
        test_dl = make_loader(data.test, config.batch_size * 2, False, num_workers=parts.workers)
        with raised_as(TrainingError, "the test set must be scored"):
            named: list[Metric] = [balanced_accuracy] if is_imbalanced(data) else []
            metrics = [*metrics_of(config, data.target), *named]
            loss = loss_function(config, data.target, device_of(model))
            test = validate(model, loss, test_dl, metrics=metrics)
        if named:
            test["largest_class"] = max(of := data.class_counts()["test"]) / sum(of)
    runs.write_whole(folder / runs.WEIGHTS, weights_to_bytes(model))
    draw_curves(history, folder / runs.CURVES)
    runs.update_record(
        folder,
        state=state_of(config, history),
        stopped=history.stopped,
        test=test,
        last=history[-1] if len(history) else None,
        best=history.best(config.monitor),
        config=config.to_dict(),
        steps=len(history.step_losses),
        compiled=history.run.compile if history.run else None,
        compiled_validation=history.run.valid_program if history.run else False,
    )
    if history.stopped:
        say(f"note   stopped early: {history.stopped}")
    return RunResult(folder, history, test, taken(data.preprocessing, data.columns, data.task))


def draw_curves(history: History, path: Path) -> None:
    from plainfit.common.plots import write_picture

    try:
        write_picture(history.plot(), path)
    except DataError as error:  # a full disk
        warn(f"{error}; the run is complete without it")

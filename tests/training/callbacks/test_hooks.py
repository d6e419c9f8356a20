"""The hooks: which, when, in which order; and that a callback begins anew with each training."""

import pytest
import torch
from torch import optim

import plainfit as pf
from plainfit.common.errors import ConfigError
from plainfit.training import callbacks
from plainfit.training.callbacks import (
    ActivationStatistics,
    Averaging,
    EarlyStopping,
    GradientAccumulation,
    GradientStatistics,
    OverfitOneBatch,
    StepLog,
    TimeLimit,
)
from plainfit.training.hooks import HOOKS, Callback
from small import batches, fit, network, same, sgd


class Recorder(Callback):
    """Notes every hook that is called, and does something at one of them."""

    def __init__(self, name="", log=None, at=None, do=None):
        self.name, self.log = name, [] if log is None else log
        self.at, self.do, self.contexts = at, do, []

    def note(self, hook, context):
        self.log.append(self.name + hook.removeprefix("on_"))
        self.contexts.append(context)
        if self.at == (hook, context.epoch, context.step):
            self.do(context)


def recording(hook):
    return lambda self, context: self.note(hook, context)


for _hook in HOOKS:
    setattr(Recorder, _hook, recording(_hook))

STEP = ["batch_start", "loss", "backward_end", "step_start", "step_end"]
BEGIN = ["fit_start", "epoch_start"]
STEPS_DONE = {"on_step_end": 1, "on_validate_end": 2, "on_epoch_end": 2}  # when first called
EPOCH = ["epoch_start", *STEP, *STEP, "validate_end", "epoch_end"]


def run(recorder, *others, **options):
    model = network()
    options = {"valid_dl": batches(5, 4)} | options
    return fit(model, sgd(model), batches(6, 6), callbacks=[recorder, *others], **options)


def test_every_hook_of_two_epochs_of_two_batches():
    recorder = Recorder()
    run(recorder)
    assert recorder.log == ["fit_start", *EPOCH, *EPOCH, "fit_end"]
    assert len({id(context) for context in recorder.contexts}) == 1


def test_each_hook_is_called_in_the_order_of_the_list():
    log = []
    run(Recorder("a ", log), Recorder("b ", log))
    once = ["fit_start", *EPOCH, *EPOCH, "fit_end"]
    assert log == [f"{name} {hook}" for hook in once for name in "ab"]


def test_without_validation_there_is_no_hook_of_it():
    recorder = Recorder()
    run(recorder, valid_dl=None, epochs=1)
    assert recorder.log == ["fit_start", *[h for h in EPOCH if h != "validate_end"], "fit_end"]


def test_no_epochs_begin_and_end():
    recorder = Recorder()
    run(recorder, epochs=0)
    assert recorder.log == ["fit_start", "fit_end"]


def stop(context):
    context.stop = "enough"


@pytest.mark.parametrize(
    ("at", "wanted", "unfinished"),
    [
        (("on_fit_start", 0, 0), ["fit_start", "fit_end"], False),
        (("on_batch_start", 0, 1), [*BEGIN, *STEP, *STEP, "stop", "fit_end"], True),
        (("on_step_end", 0, 1), [*BEGIN, *STEP, "stop", "fit_end"], True),
        (("on_validate_end", 0, 2), ["fit_start", *EPOCH, "fit_end"], False),
        (("on_epoch_end", 0, 2), ["fit_start", *EPOCH, "fit_end"], False),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)  # fmt: skip
def test_a_stop_comes_after_a_whole_step(at, wanted, unfinished):
    recorder = Recorder(at=at, do=stop)
    history = run(recorder)
    assert recorder.log == wanted
    assert (history.stopped, history.unfinished) == ("enough", unfinished)
    assert len(history.step_losses) == wanted.count("step_end")
    assert len(history) == wanted.count("epoch_end")


def test_a_validation_is_left_when_it_is_to_stop():
    recorder = Recorder()
    read = []

    def valid_dl():
        for batch in batches(3, 3, 3):
            read.append(len(batch[1]))
            yield batch
            stop(recorder.contexts[0])

    history = run(recorder, valid_dl=valid_dl)
    assert len(read) == 2  # the loader is asked for the second, which is not used
    assert recorder.log == [*BEGIN, *STEP, *STEP, "stop", "fit_end"]
    assert (len(history), history.unfinished) == (0, True)


@pytest.mark.parametrize(
    "hook", [hook for hook in HOOKS if hook not in ("on_stop", "on_exception")]
)
def test_an_exception_in_any_hook_is_told_to_all_and_raised_again(hook):
    mistake = RuntimeError("mine")

    def fail(context):
        raise mistake

    at = (hook, 2, 0) if hook == "on_fit_end" else (hook, 0, STEPS_DONE.get(hook, 0))
    first, second = Recorder(), Recorder(at=at, do=fail)
    # Those after the failing one have not been started yet, and are told nevertheless.
    others = [ActivationStatistics(), GradientStatistics(), Averaging(), TimeLimit(9)]
    with pytest.raises(RuntimeError, match="mine") as caught:
        run(first, second, *others)
    assert caught.value is mistake
    assert first.log[-1] == second.log[-1] == "exception"
    assert first.log.count("exception") == 1
    assert first.contexts[-1].exception is mistake
    if hook != "on_fit_end":
        assert "fit_end" not in first.log


def test_the_hooks_around_a_step_see_what_they_are_said_to():
    model = network()
    seen = []

    class Look(Callback):
        def on_batch_start(self, context):
            self.weights = [p.detach().clone() for p in model.parameters()]
            seen.append((context.step, context.global_step, len(context.yb)))

        def on_loss(self, context):
            assert context.loss.requires_grad
            assert all(p.grad is None for p in model.parameters())

        def on_backward_end(self, context):
            assert context.take_step
            assert all(p.grad is not None for p in model.parameters())

        def on_step_start(self, context):
            assert all(map(torch.equal, self.weights, model.parameters()))
            self.grads = [p.grad.clone() for p in model.parameters()]

        def on_step_end(self, context):
            assert not context.loss.requires_grad
            assert all(p.grad is None for p in model.parameters())
            moved = [w - 0.1 * g for w, g in zip(self.weights, self.grads, strict=True)]
            torch.testing.assert_close(list(model.parameters()), moved, rtol=0, atol=1e-15)

        def on_validate_end(self, context):
            assert set(context.result) == {"loss", "accuracy"}

    dl = batches(6, 4)
    fit(model, sgd(model), dl, dl, callbacks=[Look()], metrics=[pf.accuracy])
    assert seen == [(0, 0, 6), (1, 1, 4), (0, 2, 6), (1, 3, 4)]


def test_a_loss_that_is_replaced_is_the_one_that_trains():
    class Tenfold(Callback):
        def on_loss(self, context):
            context.loss = 10 * context.loss

    model, again = network(), network()
    history = fit(model, sgd(model, lr=0.01), batches(8), callbacks=[Tenfold()], epochs=1)
    other = fit(again, sgd(again, lr=0.1), batches(8), epochs=1)
    assert history.step_losses == other.step_losses  # the history has the loss function's own
    for a, b in zip(model.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-15)


def test_a_step_that_is_not_taken_keeps_the_gradients():
    class Never(Callback):
        def on_backward_end(self, context):
            context.take_step = False

        def on_step_start(self, context):
            raise AssertionError

    model, untouched = network(), network()
    fit(model, sgd(model), batches(8, 8), callbacks=[Never()], epochs=1)
    assert same(model, untouched)
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: EarlyStopping(1, monitor="train_loss", mode="max"),
        lambda folder: GradientAccumulation(3),
        lambda folder: StepLog(folder / "steps.csv"),
        lambda folder: OverfitOneBatch(),
        lambda folder: Averaging(0.5),
        lambda folder: Averaging(None),
        lambda folder: TimeLimit(100),
    ],
    ids=["early", "accumulation", "log", "one batch", "moving average", "mean", "time"],
)
def test_a_callback_of_one_training_begins_anew_in_the_next(make, tmp_path):
    model, again, other = network(), network(), network()
    used, fresh = make(tmp_path), make(tmp_path)
    half = Recorder(at=("on_step_end", 1, 1), do=stop)
    fit(other, sgd(other), batches(7, 7, 2), batches(5), callbacks=[used, half], epochs=3)
    dl = batches(6, 6, 4, 4)
    history = fit(model, sgd(model), dl, dl, callbacks=[used], epochs=3)
    wanted = fit(again, sgd(again), dl, dl, callbacks=[fresh], epochs=3)
    assert len(history) > 0
    assert history.step_losses == wanted.step_losses
    assert history.stopped == wanted.stopped
    assert same(model, again)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("on_epoch_begin", "on_epoch_start"),
        ("on_train_begin", None),
        ("on_step_ends", "on_step_end"),
        ("on_bacth_start", "on_batch_start"),
    ],
)
def test_a_misspelt_hook_is_an_error_at_the_start(name, meant):
    misspelt = type("Watch", (Callback,), {name: lambda self, context: None})
    with pytest.raises(ConfigError, match="a hook must be one of on_fit_start, ") as caught:
        run(Recorder(), misspelt())
    assert f"got Watch.{name}" in str(caught.value)
    if meant:
        assert str(caught.value).endswith(f"did you mean {meant!r}?")


def test_other_names_are_no_hooks():
    class Watch(Callback):
        on_terminal = True

        def once(self):
            pass

    run(Watch())


def test_which_callbacks_are_observers():
    ours = {name: kind for name, kind in vars(callbacks).items() if isinstance(kind, type)}
    observers = {name for name, kind in ours.items() if kind.observer}
    assert observers == {
        "ActivationStatistics", "BestWeights", "Checkpointing", "GradientStatistics",
        "JsonLinesLog", "NonFiniteGuard", "ProgressBar", "StepLog", "Tracking",
    }  # fmt: skip
    assert not Callback.observer


def test_lbfgs_trains_on_the_loss_that_is_put_in_place():
    class Nothing(Callback):
        def on_loss(self, context):
            context.loss = 0 * context.loss

        def on_step_end(self, context):
            assert not context.loss.requires_grad

    model = network()
    history = fit(
        model, optim.LBFGS(model.parameters(), max_iter=3), batches(20), callbacks=[Nothing()]
    )
    assert same(model, network())
    assert history.step_losses[0] > 0


@pytest.mark.parametrize("wrong", [TimeLimit, object(), print])
def test_a_callback_must_be_one(wrong):
    model = network()
    with pytest.raises(
        ConfigError, match="callbacks must be objects of subclasses of Callback, got"
    ):
        fit(model, sgd(model), batches(5), callbacks=[wrong])

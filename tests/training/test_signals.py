"""Ctrl-C and SIGTERM: a stop after the current step, and everything as it was afterwards."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from plainfit.training.hooks import Callback
from small import batches, fit, network, plain, same, sgd

SCRIPT = """
import signal, sys, time
import small
from plainfit.training.hooks import Callback

signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the surroundings have ignored

class Tell(Callback):
    def on_batch_start(self, context):
        print("begins", flush=True)
        end = time.monotonic() + float(sys.argv[1])
        while time.monotonic() < end:
            time.sleep(0.01)

    def on_step_end(self, context):
        print("step", flush=True)

    def on_stop(self, context):
        print("stops", context.stop, flush=True)

model = small.network()
small.fit(model, small.sgd(model), small.batches(5, 5), epochs=10**6, callbacks=[Tell()])
print("not reached")
"""


# After a KeyboardInterrupt, Python ends itself by SIGINT, which a shell shows as 130. But torch's
# optimizers import torch._dynamo, whose work at exit runs code of its own and makes Python (3.11)
# forget why it ends: then it is 1, in a script without plainfit too.
INTERRUPTED = {-signal.SIGINT, 1}


@pytest.fixture(autouse=True)
def plain_handlers(monkeypatch):
    """Python's own handlers, and no prompt, whatever runs the tests."""
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    monkeypatch.delattr(sys, "ps1", raising=False)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def handlers():
    return signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)


class Send(Callback):
    """Sends signals to this process when a step begins, and notes what is done after that."""

    def __init__(self, *numbers, at=3, hook="on_batch_start"):
        self.numbers, self.at, self.hook, self.log = numbers, at, hook, []

    def on_fit_start(self, context):
        self.context = context
        self.during = handlers()

    def on_batch_start(self, context):
        if self.hook == "on_batch_start":
            self.send(context)

    def on_validate_end(self, context):
        if self.hook == "on_validate_end":
            self.send(context)

    def send(self, context):
        if context.global_step >= self.at:
            for number in self.numbers:
                os.kill(os.getpid(), number)
            self.numbers = ()

    def on_step_end(self, context):
        self.log.append(context.global_step)

    def on_stop(self, context):
        self.log.append("stop")

    def on_fit_end(self, context):
        self.log.append("end")

    def on_exception(self, context):
        self.log.append(type(context.exception).__name__)


def train(send, model=None, **options):
    model = model or network()
    dl = batches(5, 5)
    return fit(model, sgd(model), dl, dl, callbacks=[send], epochs=3, **options)


@pytest.mark.parametrize(
    ("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_a_signal_stops_after_the_whole_step(number, raised):
    send, before, model, by_hand = Send(number), handlers(), network(), network()
    with pytest.raises(raised) as caught:
        train(send, model)
    assert send.log == [1, 2, 3, 4, "stop", "end"]  # sent within the fourth
    if raised is SystemExit:
        assert caught.value.code == 143
    losses = plain(by_hand, sgd(by_hand), batches(5, 5))
    assert send.context.history.step_losses == losses
    assert same(model, by_hand)
    assert send.during != before
    assert handlers() == before


def test_a_second_one_interrupts_at_once():
    send, before = Send(signal.SIGINT, signal.SIGINT), handlers()
    with pytest.raises(KeyboardInterrupt):
        train(send)
    assert send.log == [1, 2, 3, "KeyboardInterrupt"]
    assert handlers() == before


@pytest.mark.parametrize("where", ["ps1", "ipykernel"])
def test_at_a_prompt_or_in_a_notebook_the_history_comes_back(where, monkeypatch):
    if where == "ps1":
        monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    else:
        monkeypatch.setitem(sys.modules, "ipykernel", object())
    send, before = Send(signal.SIGINT), handlers()
    history = train(send)
    assert send.log == [1, 2, 3, 4, "stop", "end"]
    assert (history.stopped, history.unfinished) == ("Ctrl-C", True)
    assert (len(history), len(history.step_losses)) == (1, 4)
    assert handlers() == before
    with pytest.raises(SystemExit):  # nobody at the prompt has sent this one
        train(Send(signal.SIGTERM))


def test_a_signal_at_the_end_of_an_epoch_leaves_it_finished():
    send = Send(signal.SIGINT, at=4, hook="on_validate_end")
    with pytest.raises(KeyboardInterrupt):
        train(send)
    assert send.log == [1, 2, 3, 4, "end"]
    assert (len(send.context.history), send.context.history.unfinished) == (2, False)


def test_a_signal_within_a_validation_leaves_it():
    read = []

    def valid_dl():
        for batch in batches(3, 3, 3):
            read.append(batch)
            if len(read) == 5:
                os.kill(os.getpid(), signal.SIGINT)
            yield batch

    model, send = network(), Send()
    with pytest.raises(KeyboardInterrupt):
        fit(model, sgd(model), batches(5, 5), valid_dl, callbacks=[send], epochs=3)
    assert len(read) == 5
    assert send.log == [1, 2, 3, 4, "stop", "end"]
    assert (len(send.context.history), send.context.history.unfinished) == (1, True)


def test_an_exception_after_a_signal_is_raised_and_the_handlers_are_back():
    class Fail(Callback):
        def on_backward_end(self, context):
            if context.stop:
                raise RuntimeError("mine")

    before, model = handlers(), network()
    with pytest.raises(RuntimeError, match="mine"):
        fit(model, sgd(model), batches(5, 5), callbacks=[Send(signal.SIGINT), Fail()], epochs=3)
    assert handlers() == before


def test_a_handler_of_the_user_s_own_stays_in_charge():
    received = []
    signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    before, send = handlers(), Send(signal.SIGTERM)
    assert len(train(send)) == 3
    assert received == [signal.SIGTERM]
    assert send.during[1] is before[1] is signal.getsignal(signal.SIGTERM)
    assert send.during[0] is not before[0]


def test_a_signal_that_is_ignored_stays_so():
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in a job that a shell started with &
    assert len(train(Send(signal.SIGINT))) == 3


def test_in_a_thread_nothing_is_installed():
    send, before, results = Send(), handlers(), []
    thread = threading.Thread(target=lambda: results.append(train(send)))
    thread.start()
    thread.join()
    assert len(results[0]) == 3
    assert send.during == before == handlers()


@pytest.fixture
def started(tmp_path):
    (tmp_path / "train.py").write_text(SCRIPT)

    def start(seconds):
        process = subprocess.Popen(
            [sys.executable, tmp_path / "train.py", str(seconds)],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout.readline() == "begins\n"
        return process

    return start


@pytest.mark.soak  # the tests in this process are above, and tests/cli stops one of its own
@pytest.mark.parametrize(
    ("number", "name", "codes"),
    [(signal.SIGINT, "Ctrl-C", INTERRUPTED), (signal.SIGTERM, "SIGTERM", {143})],
)
def test_the_process_ends_with_the_code_of_the_signal(started, number, name, codes):
    process = started(0.2)
    process.send_signal(number)
    out, errors = process.communicate(timeout=30)
    assert out == f"step\nstops {name}\n"
    assert process.returncode in codes
    assert errors.endswith("KeyboardInterrupt\n") == (number == signal.SIGINT)


@pytest.mark.soak  # the test in this process is above
def test_a_second_ctrl_c_ends_the_process_at_once(started):
    process = started(60)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)  # one that comes before the first is handled would be the same one
    assert process.poll() is None  # the step goes on
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=30)
    assert out == ""
    assert process.returncode in INTERRUPTED
    assert errors.endswith("KeyboardInterrupt\n")

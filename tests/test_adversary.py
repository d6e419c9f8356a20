"""A standing adversary: hostile run folders, and careless use in any order.

Whatever it does, there is no traceback, nothing of a stranger runs, no checkpoint is lost, and a
run that gets to its end has the bits of one that was never disturbed.
"""

import json
import resource
import shutil
import signal
import tempfile
import warnings
from contextlib import contextmanager, suppress
from copy import deepcopy
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from PIL import Image
from safetensors.torch import load_file

from ejecting import run_here
from plainfit.common.errors import PlainfitError
from plainfit.eject import eject_run
from plainfit.report.comparison import Comparison
from plainfit.report.page import write_report
from plainfit.runs.folder import list_runs, open_run
from plainfit.runs.predict import predict_images
from plainfit.runs.settings import RunConfig
from plainfit.runs.train import resume, train
from plainfit.training.hooks import Callback

MUTATIONS, SEQUENCES = 20_000, 2_000
VALUES = (
    None, True, False, 0, -1, 2**70, 1.5, -0.0, float("nan"), float("inf"), "", "a", "0",
    "\x00\n\u2028",
    "x" * 10_000, "bait:run", "os:system", "../..", "/dev/zero", [], {}, [[]], [None], [1, "a"],
    {"a": {}}, {"target": "bait:run"}, [-1, -1, -1], [10**9] * 3,
)  # fmt: skip


def places(value, path=()):
    """Yield the path of everything in what JSON holds."""
    if path:
        yield path
    if isinstance(value, dict | list):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(each, (*path, key))


def mutate(record, rng):
    """Change, remove or add one thing anywhere; say what."""
    path = rng.choice([*places(record)])
    *parents, last = path
    place = record
    for key in parents:
        place = place[key]
    action = rng.choice(["change"] * 6 + ["remove", "add"])
    value = deepcopy(rng.choice(VALUES))
    if action == "change":
        place[last] = value
    elif action == "remove":
        del place[last]
    elif isinstance(place, dict):
        place["target"] = value
    else:
        place.append(value)
    return f"{action} {'.'.join(map(str, path))}: {value!r:.60}"


def use(run, number):
    """Do with a run whatever reads it; bad input is a PlainfitError of one line."""
    often = (
        lambda: list_runs(run.parent),
        lambda: Comparison([run]).rows,
        lambda: open_run(run).config.command(),
        lambda: predict_images(open_run(run), [run.parent / "a.png"]),
    )
    seldom = (
        lambda: resume(run, echo=None),
        lambda: resume(run, epochs=2, echo=None),
        lambda: write_report(run),
        lambda: eject_run(run, run.parent / "t.py", force=True),
        lambda: Comparison([run]).write(run.parent / "c.html"),
    )
    for action in (*often, seldom[number % len(seldom)]):
        try:
            action()
        except PlainfitError as error:
            assert "\n" not in str(error), error  # noqa: PT017


def attack(folder, run, count, seed):
    """Mutate a run's record that many times; return what ended in another way."""
    rng, text = Random(seed), (run / "run.json").read_text()
    Image.new("L", (8, 8)).save(folder / "a.png")
    (folder / "bait.py").write_text("open('pwned', 'w')\ndef run(*a, **b): pass\n")
    bad = []
    for number in range(count):
        copy = shutil.copytree(run, folder / "run")
        record = json.loads(text)
        said = [mutate(record, rng) for _ in range(rng.choice([1, 1, 1, 3]))]
        (copy / "run.json").write_text(json.dumps(record))
        try:
            use(copy, number)
        except Exception as error:  # the adversary has found something
            bad.append(f"{'; '.join(said)} -> {type(error).__name__}: {error}"[:300])
        assert not (folder / "pwned").exists(), said
        shutil.rmtree(copy)
    return bad


@pytest.fixture
def one_epoch(tmp_path_factory):
    out = tmp_path_factory.mktemp("one") / "run"
    train(RunConfig(model="logistic", epochs=1, batch_size=256, out=out), echo=None)
    return out


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("count", [60, pytest.param(MUTATIONS, marks=pytest.mark.soak)])
def test_a_mutated_record_is_one_line(tmp_path, monkeypatch, one_epoch, count):
    monkeypatch.chdir(tmp_path)
    assert attack(tmp_path, one_epoch, count, seed=count) == []


class StopAt(Callback):
    observer = True

    def __init__(self, step):
        self.step = step

    def on_step_end(self, context):
        if context.global_step == self.step:
            context.stop = "the test"


@contextmanager
def largest_file(size):
    """Let no file grow beyond a number of bytes, as a full disk or a quota does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


STEPS = 3  # in an epoch


class Careless(RuleBasedStateMachine):
    """A run that is stopped, extended, copied, ejected, asked and disturbed in any order."""

    whole: dict = {}  # noqa: RUF012  # the weights of undisturbed runs, by epochs

    @initialize(epochs=st.integers(1, 3))
    def begin(self, epochs):
        self.room = Path(tempfile.mkdtemp())
        rng = np.random.default_rng(0)
        y = np.arange(60, dtype="i8") % 3
        x = (rng.integers(0, 200, (60, 8, 8)) + 20 * y[:, None, None]).astype("u1")
        np.savez(self.room / "data.npz", x=x, y=y)
        Image.fromarray(x[0]).save(self.room / "a.png")
        self.epochs, self.out = epochs, self.room / "run"
        self.attempt(lambda **options: train(self.config(epochs, self.out), **options), None)

    def config(self, epochs, out):
        return RunConfig(
            data=str(self.room / "data.npz"), model="logistic", epochs=epochs, batch_size=16,
            momentum=0.9, out=out,
        )  # fmt: skip

    def attempt(self, action, stop, size=None):
        callbacks = [] if stop is None else [StopAt(stop)]
        with warnings.catch_warnings(), suppress(PlainfitError):
            warnings.simplefilter("ignore")
            if size is None:
                return action(echo=None, callbacks=callbacks)
            with largest_file(size):
                return action(echo=None, callbacks=callbacks)
        return None

    @property
    def state(self):
        return open_run(self.out).record["state"]

    @rule(more=st.integers(0, 2), stop=st.none() | st.integers(1, 12))
    def go_on(self, more, stop):
        before = len(open_run(self.out).epochs)
        epochs = self.epochs + more
        self.attempt(lambda **options: resume(self.out, epochs=epochs, **options), stop)
        run = open_run(self.out)
        assert len(run.epochs) >= before
        self.epochs = run.config.epochs

    @rule(size=st.integers(0, 60_000), more=st.integers(0, 1))
    def disk_is_full(self, size, more):
        before = len(open_run(self.out).epochs)
        epochs = self.epochs + more
        self.attempt(lambda **options: resume(self.out, epochs=epochs, **options), None, size)
        run = open_run(self.out)
        assert len(run.epochs) >= before
        self.epochs = run.config.epochs

    @rule()
    def fewer_epochs_are_refused(self):
        done = len(open_run(self.out).epochs)
        if done > 1:
            with pytest.raises(PlainfitError):
                resume(self.out, epochs=done - 1, echo=None)

    @rule()
    def another_training_takes_the_folder(self):
        weights = sorted(path.name for path in self.out.iterdir())
        with pytest.raises(PlainfitError):
            train(self.config(1, self.out), echo=None)
        assert sorted(path.name for path in self.out.iterdir()) == weights

    @precondition(lambda self: self.state == "finished")
    @rule()
    def ask(self):
        (answer,) = predict_images(open_run(self.out), [self.room / "a.png"])
        assert abs(sum(answer["probabilities"].values()) - 1) < 1e-5

    @precondition(lambda self: self.state == "finished")
    @rule()
    def eject(self):
        script = eject_run(self.out, self.room / "script.py", force=True)
        losses, _ = run_here(script.path)
        assert losses == [step.loss for step in open_run(self.out).steps]

    def teardown(self):
        if not hasattr(self, "room"):
            return
        for _ in range(2):  # with room on the disk, it gets to its end
            if self.state != "finished":
                resume(self.out, echo=None)
        assert self.state == "finished"
        epochs = len(open_run(self.out).epochs)
        if epochs not in self.whole:
            train(self.config(epochs, self.room / "whole"), echo=None)
            self.whole[epochs] = load_file(self.room / "whole" / "model.safetensors")
        found = load_file(self.out / "model.safetensors")
        assert all(found[name].equal(value) for name, value in self.whole[epochs].items())
        shutil.rmtree(self.room)


small = settings(max_examples=2, stateful_step_count=6, deadline=None,
                 suppress_health_check=list(HealthCheck))  # fmt: skip
TestCareless = pytest.mark.filterwarnings("ignore")(Careless.TestCase)
TestCareless.settings = small


@pytest.mark.soak
@pytest.mark.filterwarnings("ignore")
def test_many_careless_sequences():
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(
        Careless,
        settings=settings(small, max_examples=SEQUENCES, stateful_step_count=12),
    )

"""A standing adversary: hostile run folders, and careless use in any order.

Whatever it does, there is no traceback, nothing of a stranger runs, no checkpoint is lost, and a
run that gets to its end has the bits of one that was never disturbed.
"""

import json
import shutil
import signal
import tempfile
import warnings
from contextlib import suppress
from copy import deepcopy
from itertools import count
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from PIL import Image

from ejecting import run_here
from killing import WHEN, die_at, ended, files_up_to, forked
from plainfit.common.errors import EjectError, PlainfitError, RunError
from plainfit.eject import eject_run
from plainfit.estimators import PlainfitClassifier
from plainfit.report.comparison import Comparison
from plainfit.report.page import write_report
from plainfit.runs.folder import CHECKPOINTS, RECORD, STEPS, WEIGHTS, list_runs, open_run
from plainfit.runs.predict import predict_images
from plainfit.runs.settings import RunConfig
from plainfit.runs.train import resume, train
from plainfit.training.checkpoints import from_bytes, newest, save, to_bytes
from plainfit.training.hooks import Callback

MUTATIONS, SEQUENCES = 20_000, 2_000
VALUES = (
    None, True, False, 0, -1, 2**70, 1.5, -0.0, float("nan"), float("inf"), "", "a", "0",
    "\x00\n\u2028", "$_{$",
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
        ends_well(action)


def ends_well(action):
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


def each_mutation(state, count, action):
    rng = Random(count)
    for _ in range(count):
        changed = deepcopy(state)
        said = mutate(changed, rng)
        try:
            action(changed)
        except Exception as error:  # the adversary has found something
            raise AssertionError(said) from error


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("count", [8, pytest.param(MUTATIONS // 20, marks=pytest.mark.soak)])
def test_a_mutated_checkpoint_is_one_line(tmp_path, count):
    run, copy = tmp_path / "run", tmp_path / "copy"
    config = RunConfig(model="logistic", epochs=2, batch_size=512, momentum=0.9, out=run)
    train(config, echo=None, callbacks=[At(4, stop)])
    _, state = newest(run / CHECKPOINTS, print)
    shutil.rmtree(run / CHECKPOINTS)

    def go_on(changed):
        shutil.copytree(run, copy)
        (copy / CHECKPOINTS).mkdir()
        save(copy / CHECKPOINTS, 4, changed)
        ends_well(lambda: eject_run(copy, tmp_path / "t.py", force=True))
        ends_well(lambda: resume(copy, echo=None))
        shutil.rmtree(copy)

    each_mutation(state, count, go_on)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("count", [50, pytest.param(MUTATIONS // 10, marks=pytest.mark.soak)])
def test_a_mutated_estimator_is_one_line(tmp_path, count):
    path = tmp_path / "a.safetensors"
    PlainfitClassifier("logistic", epochs=1).fit([[0.0], [1.0]] * 8, [0, 1] * 8).save(path)

    def load(changed):
        path.write_bytes(to_bytes(changed))
        ends_well(lambda: PlainfitClassifier.load(path))

    each_mutation(from_bytes(path.read_bytes()), count, load)


class At(Callback):
    """Does something at the end of a step."""

    observer = True

    def __init__(self, step, action):
        self.step, self.action = step, action

    def on_step_end(self, context):
        if context.global_step == self.step:
            self.action(context)


def stop(context):
    context.stop = "the test"


def interrupt(context):
    signal.raise_signal(signal.SIGINT)


def interrupt_twice(context):
    interrupt(context)
    interrupt(context)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    data = bytearray(path.read_bytes() or b"?")
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


IN_EPOCH = 3  # steps
CALLS = 150  # writes, syncs, renames and removals of files in a training


@pytest.fixture(autouse=True)
def usual_settings():
    """A script of a mutated record sets what the record says, also for the tests after this one."""
    yield
    torch.backends.cudnn.benchmark = torch.backends.cudnn.deterministic = False
    torch.use_deterministic_algorithms(False)


class Careless(RuleBasedStateMachine):
    """A run that is stopped, killed, extended, moved, damaged, ejected and asked in any order."""

    undisturbed: dict = {}  # noqa: RUF012  # folders, by the number of epochs

    @initialize(epochs=st.integers(1, 3), call=st.integers(1, CALLS), when=st.sampled_from(WHEN))
    def begin(self, epochs, call, when):
        self.room, self.numbers, self.damaged = Path(tempfile.mkdtemp()), count(), set()
        rng = np.random.default_rng(0)
        y = np.arange(60, dtype="i8") % 3
        x = (rng.integers(0, 200, (60, 8, 8)) + 20 * y[:, None, None]).astype("u1")
        np.savez(self.room / "data.npz", x=x, y=y)
        Image.fromarray(x[0]).save(self.room / "a.png")
        self.out = self.room / "run"
        self.kill_at(call, when, lambda: self.train(epochs, self.out))
        if not (self.out / RECORD).exists():
            self.train(epochs, self.out)

    def train(self, epochs, out):
        config = RunConfig(
            data=str(self.room / "data.npz"), model="logistic", epochs=epochs, batch_size=16,
            momentum=0.9, out=out,
        )  # fmt: skip
        train(config, echo=None)

    def attempt(self, more, *callbacks):
        """Go on with the run, and lose nothing."""
        epochs, before = open_run(self.out).config.epochs + more, self.saved_steps
        with warnings.catch_warnings(), suppress(PlainfitError, KeyboardInterrupt):
            warnings.simplefilter("ignore")
            resume(self.out, epochs=epochs, echo=None, callbacks=callbacks)
        assert self.saved_steps >= before

    def in_a_process(self, work):
        errors = self.room / "error.txt"
        code = ended(forked(work, errors))
        assert code in (0, -signal.SIGKILL), errors.read_text()
        return code

    def kill_at(self, call, when, action):
        def work():
            die_at(call, when)
            action()

        self.in_a_process(work)

    @property
    def state(self):
        return open_run(self.out).record["state"]

    @property
    def saved_steps(self):
        found = newest(self.out / CHECKPOINTS, lambda text: None)
        return found[1]["position"]["global_step"] if found else 0

    @rule(
        more=st.integers(0, 2),
        step=st.integers(1, 12),
        how=st.sampled_from([stop, interrupt, interrupt_twice]),
    )
    def go_on(self, more, step, how):
        self.attempt(more, At(step, how))

    @rule(more=st.integers(0, 1), size=st.integers(0, 60_000))
    def disk_is_full(self, more, size):
        with files_up_to(size):
            self.attempt(more)

    @rule(more=st.integers(0, 1), call=st.integers(1, CALLS), when=st.sampled_from(WHEN))
    def is_killed(self, more, call, when):
        before = self.saved_steps
        self.kill_at(call, when, lambda: self.attempt(more))
        assert self.saved_steps >= before

    @rule(more=st.integers(0, 1), after=st.integers(1, IN_EPOCH))
    def two_at_once(self, more, after):
        def second():
            for begin in (lambda: resume(self.out), lambda: self.train(1, self.out)):
                with pytest.raises(RunError, match="must have one writer"):
                    begin()

        codes = []
        at = At(self.saved_steps + after, lambda context: codes.append(self.in_a_process(second)))
        self.attempt(more, at)
        assert codes in ([], [0])

    @rule(number=st.integers(0, 15), how=st.sampled_from([Path.unlink, truncate, flip]))
    def a_file_is_damaged(self, number, how):
        files = sorted(p for p in self.out.rglob("*") if p.is_file() and p.name != RECORD)
        if files:
            path = files[number % len(files)]
            how(path)
            self.damaged.add(path.relative_to(self.out))

    @rule(how=st.sampled_from([shutil.move, shutil.copytree]))
    def goes_elsewhere(self, how):
        there = self.room / f"run{next(self.numbers)}"
        how(self.out, there)
        self.out = there

    @rule(after=st.integers(1, IN_EPOCH))
    def is_moved_meanwhile(self, after):
        at = self.saved_steps + after
        self.attempt(1, At(at, lambda context: self.goes_elsewhere(shutil.move)))

    @rule()
    def fewer_epochs_are_refused(self):
        begun = -(-self.saved_steps // IN_EPOCH)
        if begun > 1:
            with pytest.raises(PlainfitError):
                resume(self.out, epochs=begun - 1, echo=None)

    @rule()
    def another_training_takes_the_folder(self):
        before = {path: path.read_bytes() for path in self.out.glob("[!.]*") if path.is_file()}
        with pytest.raises(RunError):
            self.train(1, self.out)
        assert before == {path: path.read_bytes() for path in before}

    @precondition(lambda self: self.state == "finished")
    @rule()
    def ask(self):
        with suppress(*self.refusals):
            (answer,) = predict_images(open_run(self.out), [self.room / "a.png"])
            assert abs(sum(answer["probabilities"].values()) - 1) < 1e-5

    @precondition(lambda self: self.state == "finished")
    @rule()
    def eject(self):
        like = self.like(open_run(self.out).config.epochs)
        with suppress(*self.refusals):
            script = eject_run(self.out, self.room / "script.py", force=True)
            losses, _ = run_here(script.path)
            assert losses == [step.loss for step in like.steps]

    @property
    def refusals(self):
        return (RunError, EjectError) if self.damaged else ()  # losses in steps.csv, too

    def like(self, epochs):
        """Return a run of so many epochs that was never disturbed."""
        if epochs not in self.undisturbed:
            self.undisturbed[epochs] = Path(tempfile.mkdtemp()) / "run"
            self.train(epochs, self.undisturbed[epochs])
        return open_run(self.undisturbed[epochs])

    def teardown(self):
        """With room on the disk, and without what was damaged, it gets to its end."""
        if not hasattr(self, "room"):
            return
        for name in self.damaged:
            (self.out / name).unlink(missing_ok=True)
        self.attempt(0)
        run = open_run(self.out)
        assert run.record["state"] == "finished"
        like = self.like(run.config.epochs)
        for name in (WEIGHTS, STEPS):
            assert (run.folder / name).read_bytes() == (like.folder / name).read_bytes()
        shutil.rmtree(self.room)


small = settings(max_examples=2, stateful_step_count=6, deadline=None,
                 suppress_health_check=list(HealthCheck))  # fmt: skip


@pytest.mark.filterwarnings("ignore")
class TestCareless(Careless.TestCase):
    settings = small


@pytest.mark.soak
@pytest.mark.filterwarnings("ignore")
def test_many_careless_sequences():
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(
        Careless,
        settings=settings(small, max_examples=SEQUENCES, stateful_step_count=12),
    )

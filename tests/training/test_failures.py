"""What goes wrong around a training: signals, a full disk, dying workers, NaN."""

import hashlib
import mmap
import os
import random
import resource
import signal
import subprocess
import time
import warnings
from multiprocessing import Pipe

import pytest
import torch
import torch.nn.functional as F
from torch import nn, optim
from torch.utils.data import TensorDataset

import plainfit as pf
from killing import (
    NaiveCheckpointing,
    ended,
    finish,
    forked,
    left_behind,
    small_disk,
    train_to_file,
    warm_up,
)
from plainfit.common.devices import cpu_threads
from plainfit.common.errors import NonFiniteError
from plainfit.training import checkpoints as files
from plainfit.training.callbacks import Checkpointing
from plainfit.training.hooks import Callback
from trainings import BS, Net, Noisy, StopAt, differences, images, train

SHARED = ("memory", "samples", "workers")


class StepCounter(Callback):
    """Writes the number of steps done to memory that the parent process can read."""

    def __init__(self):
        self.memory = mmap.mmap(-1, 8)

    def on_step_end(self, context):
        self.memory[:8] = context.global_step.to_bytes(8, "little")
        time.sleep(0.005)  # long enough for a signal to come within a step

    @property
    def steps(self):
        return int.from_bytes(self.memory[:8], "little")


@pytest.fixture(autouse=True)
def one_thread():
    """As many here as in the forks."""
    with cpu_threads(1):
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    warm_up(tmp_path_factory.mktemp("warm"))
    return {loader: finish(tmp_path_factory.mktemp("whole"), loader=loader) for loader in SHARED}


def interrupt(folder, number, whole, kind, rng):
    """Send a signal at a random time; check the code, the steps after it, and the resumed end."""
    loader = SHARED[number % len(SHARED)]
    counter = StepCounter()
    folder = folder / str(number)
    folder.mkdir()
    child = forked(
        lambda: train_to_file(folder, loader=loader, callbacks=[counter]), folder / "error.txt"
    )
    step = rng.randint(1, 10)  # of 15; before the first, Python's own handlers are right
    while counter.steps < step:
        time.sleep(0.001)
    time.sleep(rng.uniform(0, 0.01))
    to_group = rng.random() < 0.5
    (os.killpg if to_group else os.kill)(child, kind)
    sent = counter.steps
    code = ended(child)
    assert code in (128 + kind, 0), (code, folder)  # 0: it came to its end first
    if code:
        saved = int(files.listed(folder / "checkpoints")[-1].name[:12])
        assert counter.steps - sent <= 1
        assert saved == counter.steps
    assert left_behind([child]) == []
    assert differences(whole[loader], finish(folder, loader=loader)) == []
    return code != 0


@pytest.mark.enable_socket
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_signals(tmp_path, whole, kind):
    rng = random.Random(kind)
    stopped = [interrupt(tmp_path, number, whole, kind, rng) for number in range(3)]
    assert sum(stopped) >= 1


@pytest.mark.soak
@pytest.mark.enable_socket
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_100_signals(tmp_path, whole, kind):
    rng = random.Random(kind)
    stopped = [interrupt(tmp_path, number, whole, kind, rng) for number in range(100)]
    print(f"\n{kind.name}: 100 of 100, {sum(stopped)} of them before the end")


# a disk that is full or read-only


def train_despite(folder, before):
    """Train in a child after `before` has changed what it may write; return the exit code."""

    def work():
        before()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            outcome = train(folder / "checkpoints", resume=True)
        texts = sorted({str(w.message) for w in caught})
        pipe_out.send((outcome["losses"], texts))

    pipe_in, pipe_out = Pipe(duplex=False)
    errors = folder.parent / "error.txt"
    errors.touch()
    errors.chmod(0o666)
    child = forked(work, errors)
    assert ended(child) == 0, errors.read_text()
    return pipe_in.recv()


@pytest.mark.parametrize("share", [0.0, 0.99])
def test_files_that_cannot_grow(tmp_path, whole, share):
    """The size of files is limited to a share of a checkpoint's: every save fails part-way."""
    folder = tmp_path / "run"
    folder.mkdir()
    train(tmp_path / "whole")
    size = min(path.stat().st_size for path in files.listed(tmp_path / "whole"))

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(share * size), int(share * size)))

    losses, texts = train_despite(folder, limit)
    assert losses == whole["memory"]["losses"]
    assert any("no checkpoint could be written" in t and "training goes on" in t for t in texts)
    assert list((folder / "checkpoints").iterdir()) == []


def test_the_naive_way_ends_the_training_and_spoils_the_file(tmp_path):
    """The control: no room for the second checkpoint, which is written over the first."""
    folder = tmp_path / "run"
    folder.mkdir()
    train(folder, callbacks=[StopAt(7)], checkpoint=NaiveCheckpointing(folder), resume=True)
    size = (folder / "last.pt").stat().st_size

    def work():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))
        train(folder, checkpoint=NaiveCheckpointing(folder), resume=True)

    assert ended(forked(work, tmp_path / "error.txt")) == 1
    assert "File too large" in (tmp_path / "error.txt").read_text()
    with pytest.raises((OSError, RuntimeError)):
        torch.load(folder / "last.pt", weights_only=False)


def test_a_folder_that_becomes_read_only_keeps_the_last_good_one(tmp_path, whole):
    folder = tmp_path / "run"
    with small_disk(folder, 2**23):
        train(folder / "checkpoints", callbacks=[StopAt(7)])
        before = {path.name for path in (folder / "checkpoints").iterdir()}
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        losses, texts = train_despite(folder, lambda: None)
        assert losses == whole["memory"]["losses"]
        assert any("Read-only file" in text and "training goes on" in text for text in texts)
        assert {path.name for path in (folder / "checkpoints").iterdir()} == before
        subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True)
        assert differences(whole["memory"], finish(folder)) == []


@pytest.mark.soak
def test_a_small_disk_of_every_size(tmp_path, whole):
    """Disks from nothing to 2 checkpoints (they stay under 100 files: 4 KiB blocks)."""
    small = tmp_path / "sample"
    small.mkdir()
    train_to_file(small)
    size = files.listed(small / "checkpoints")[0].stat().st_size
    tried = 0
    for pages in range(1, 2 * size // 4096 + 3):
        disk = tmp_path / f"disk-{pages}"
        with small_disk(disk, 4096 * pages):
            losses, texts = train_despite(disk, lambda: None)
            assert losses == whole["memory"]["losses"]
            kept = files.listed(disk / "checkpoints")
            for path in kept:
                files.check_sha256(path, hashlib.sha256(path.read_bytes()).hexdigest())
            assert {p.name for p in (disk / "checkpoints").iterdir()} == {p.name for p in kept}
            assert kept or any("no checkpoint could be written" in text for text in texts)
            tried += 1
    print(f"\n{tried} sizes, from 4 KiB to {tried * 4} KiB; a checkpoint has {size // 1024} KiB")


# NaN, dying workers, no memory


@pytest.mark.parametrize("step", [0, 7, 13])
@pytest.mark.parametrize("what", ["inputs", "loss"])
def test_a_loss_that_is_not_finite(tmp_path, step, what):
    """Nothing of the broken step is left in the weights, and the checkpoint before is good."""
    torch.manual_seed(0)
    model = Net()
    opt = optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    train_dl, _ = pf.get_data(*[TensorDataset(x, y) for x, y in images()], BS)
    seen = []

    class Inject(Callback):
        def on_batch_start(self, context):
            seen.append([p.detach().clone() for p in context.model.parameters()])
            if context.global_step == step and what == "inputs":
                context.xb = context.xb.clone()
                context.xb[0, 0, 0, 0] = torch.nan

    def loss_func(out, yb):
        loss = F.cross_entropy(out, yb)
        return loss * torch.inf if len(seen) == step + 1 and what == "loss" else loss

    with pytest.raises(NonFiniteError) as caught:
        pf.fit(
            3, model, loss_func, opt, train_dl, None, callbacks=[Inject()], checkpoint=tmp_path,
            echo=None,
        )  # fmt: skip
    assert f"in epoch {step // 5}, step {step % 5} " in str(caught.value)
    cause = "the inputs of the batch hold NaN" if what == "inputs" else "lower the learning rate"
    assert cause in str(caught.value)
    assert all(map(torch.equal, seen[-1], model.parameters()))
    found = files.newest(tmp_path, print)
    assert (found is None) == (step < 5)
    if found is not None:
        assert found[1]["position"]["global_step"] == step // 5 * 5
        assert all(torch.isfinite(value).all() for value in found[1]["model"].values())


def test_a_gradient_that_is_not_finite_leaves_the_checkpoint_before(tmp_path):
    """The loss is finite, so the step is taken; but no broken weights are saved, at any step."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
    train_dl, _ = pf.get_data(*[TensorDataset(x, y) for x, y in images()], BS)

    class Inject(Callback):
        def on_step_start(self, context):
            if context.global_step == 7:
                model[1].weight.grad[0, 0] = torch.nan

    with pytest.raises(NonFiniteError, match=r"in epoch 1, step 3 .*1.weight holds such values"):
        pf.fit(
            3, model, F.cross_entropy, optim.SGD(model.parameters(), lr=0.1), train_dl, None,
            callbacks=[Inject()], checkpoint=Checkpointing(tmp_path, every_steps=1), echo=None,
        )  # fmt: skip
    found = files.newest(tmp_path, print)
    assert found[1]["position"]["global_step"] == 7
    assert all(torch.isfinite(value).all() for value in found[1]["model"].values())


class Breaks(Noisy):
    """A data set with one sample whose reading kills its process, or needs too much memory."""

    def __init__(self, x, y, sample, how):
        super().__init__(x, y)
        self.sample, self.how = sample, how

    def __getitem__(self, index):
        if index == self.sample and self.how == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if index == self.sample:
            torch.empty(2**50)
        return super().__getitem__(index)


@pytest.mark.enable_socket
@pytest.mark.parametrize("sample", [50])
@pytest.mark.parametrize(
    ("how", "message"),
    [("dies", r"worker \(pid.* is killed by signal|exited unexpectedly|Connection re(set|fused)"),
     ("memory", "can't allocate memory")],
)  # fmt: skip
def test_a_worker_that_dies_is_an_error_and_no_hang(tmp_path, sample, how, message):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
    x, y = images()[0]
    dataset = Breaks(x, y, sample, how)
    train_dl, _ = pf.get_data(dataset, TensorDataset(x, y), BS, num_workers=2)
    opt = optim.SGD(model.parameters(), lr=0.1)
    began = time.perf_counter()
    with pytest.raises(
        (RuntimeError, ConnectionError), match=message
    ):  # as it sends a batch, or not
        pf.fit(
            2, model, F.cross_entropy, opt, train_dl, None, checkpoint=tmp_path, echo=None,
        )  # fmt: skip
    assert time.perf_counter() - began < 60

"""Checkpoints: exact, checked, whole or not at all."""

import hashlib
import json
import math
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import nn, optim
from torch.utils.data import TensorDataset

import plainfit as pf
from plainfit.common.errors import CheckpointError, ConfigError, EjectError, RunError
from plainfit.training import checkpoints as files
from plainfit.training.callbacks import (
    Checkpointing,
    EarlyStopping,
    GradientAccumulation,
    GradientClipping,
)
from plainfit.training.checkpoints import from_bytes, to_bytes
from trainings import Net, StopAt, differences, loaders, outcome, train


def small_state():
    torch.manual_seed(0)
    tied = torch.randn(3, 4)
    return {
        "tied": [tied, tied],
        "transposed": torch.randn(4, 3).t(),
        "channels last": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "row": torch.randn(5, 6)[2],
        "types": [torch.ones(3).to(kind) for kind in files.TYPES],
        "empty": torch.zeros(0, 3),
        "number": torch.tensor(7, dtype=torch.int64),
        "tuple": (1, (2.5, None), "text"),
        "by number": {0: {"step": torch.tensor(3.0)}, 1: True},
        "floats": [0.1, math.inf, -0.0, 5e-324],
        "marks": {"$tensor": "not one", "$tuple": 1},
    }  # fmt: skip


def test_every_kind_of_value_comes_back_exactly():
    state = small_state()
    back = from_bytes(to_bytes(state))
    assert differences(state, back) == []
    assert math.copysign(1, back["floats"][2]) == -1
    assert math.isnan(from_bytes(to_bytes({"nan": math.nan}))["nan"])


def test_a_checkpoint_is_plain_safetensors_with_json(tmp_path):
    path = files.save(tmp_path, 12, small_state())
    assert path.name == f"000000000012-{hashlib.sha256(path.read_bytes()).hexdigest()}.safetensors"
    with safe_open(path, framework="pt") as file:
        assert "tied/0" in file.keys()  # noqa: SIM118  # it is no dict
        assert "tied/1" not in file.keys()  # noqa: SIM118  # the same memory, stored once
        assert json.loads(file.metadata()["state"])["tied"][1] == {"$tensor": "tied/0"}


def test_tensors_are_written_from_where_they_are():
    weight = torch.zeros(7)
    [_, part] = files.to_parts({"weight": weight}, {})
    weight += 1
    assert bytes(part) == weight.numpy().tobytes()
    assert from_bytes(to_bytes({"a": torch.tensor([1 + 2j]).conj()}))["a"].tolist() == [1 - 2j]
    with pytest.raises(CheckpointError, match=r"and a has torch.complex128; turn it into one of F"):
        to_bytes({"a": torch.zeros(1, dtype=torch.complex128)})


@pytest.mark.parametrize("value", [np.zeros(2), object(), {1, 2}, b"bytes", 1j])
def test_what_needs_pickle_is_refused_by_its_path(value):
    with pytest.raises(CheckpointError, match=r"and a/b/1 is a \w+; leave it out of state_dict"):
        to_bytes({"a": {"b": [0, value]}})


# damage


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two small checkpoints in a folder."""
    folder = tmp_path_factory.mktemp("two")
    return [
        files.save(folder, step, {"step": step, "x": torch.full((8,), step)}) for step in (1, 2)
    ]


def newest_after(two, tmp_path, damaged):
    """Return the state found when the newer file holds this instead, and what was reported."""
    old, new = two
    (tmp_path / old.name).write_bytes(old.read_bytes())
    (tmp_path / new.name).write_bytes(damaged)
    reported = []
    found = files.newest(tmp_path, reported.append)
    return found[1]["step"], reported


def test_every_flipped_byte_is_rejected_and_the_one_before_used(two, tmp_path):
    data = two[1].read_bytes()
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 1 + place % 255
        step, reported = newest_after(two, tmp_path, bytes(damaged))
        assert (step, len(reported)) == (1, 1), place
    assert "must have the SHA-256 in its name" in reported[0]
    assert newest_after(two, tmp_path, data) == (2, [])


def test_every_truncation_is_rejected(two, tmp_path):
    data = two[1].read_bytes()
    for size in range(len(data)):
        assert newest_after(two, tmp_path, data[:size])[0] == 1, size


def test_two_that_were_swapped_are_both_rejected(two, tmp_path):
    old, new = two
    (tmp_path / old.name).write_bytes(new.read_bytes())
    (tmp_path / new.name).write_bytes(old.read_bytes())
    reported = []
    assert files.newest(tmp_path, reported.append) is None
    assert len(reported) == 2


def test_the_naive_way_takes_damage_in_silence(tmp_path):
    """The control: torch.save's file with a changed byte loads, with other weights."""
    path = tmp_path / "last.pt"
    torch.save({"x": torch.ones(1000)}, path)
    damaged = bytearray(path.read_bytes())
    damaged[damaged.index(torch.ones(100).numpy().tobytes()) + 402] ^= 0x40
    path.write_bytes(bytes(damaged))
    assert not torch.equal(torch.load(path, weights_only=True)["x"], torch.ones(1000))


def mutants(data, count):
    """Yield so many damaged versions: bytes changed, cut, doubled, the header's numbers too."""
    rng = random.Random(0)
    header = 8 + int.from_bytes(data[:8], "little")
    for _ in range(count):
        changed = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(rng.choice((8, header, len(data))))
            kind = rng.randrange(4)
            if kind == 0:
                changed[place % len(changed)] = rng.randrange(256)
            elif kind == 1:
                del changed[place : place + rng.randint(1, 40)]
            elif kind == 2:
                changed[place:place] = changed[place : place + rng.randint(1, 40)]
            else:
                changed[place : place + 8] = rng.choice((0, 1, 2**31, 2**63 - 1)).to_bytes(
                    8, "little"
                )
            changed = changed or bytearray(b"\0")
        yield bytes(changed)


def read_mutants(count):
    """Read them past the hash, as if it had been made for them; return how many were refused."""
    refused = 0
    for damaged in mutants(to_bytes(small_state()), count):
        try:
            from_bytes(damaged)
        except CheckpointError:
            refused += 1
    return refused


def test_the_parser_refuses_nonsense_with_one_kind_of_error():
    assert read_mutants(2_000) > 1_000


@pytest.mark.soak
def test_the_parser_on_200_000_mutants():
    print(f"\n{read_mutants(200_000)} of 200000 refused, no other error")


# the folder


def test_a_folder_with_checkpoints_is_not_begun_anew(tmp_path):
    train(tmp_path)
    with pytest.raises(RunError, match=r"has 2; pass resume=True to continue from the newest, or"):
        train(tmp_path)


def test_resume_in_an_empty_folder_begins(tmp_path):
    assert differences(train(None), train(tmp_path / "new", resume=True)) == []


def test_a_folder_of_damaged_checkpoints_is_an_error_and_says_so_of_each(tmp_path):
    train(tmp_path)
    for path in files.listed(tmp_path):
        path.write_bytes(path.read_bytes()[:-1])
    with (
        pytest.warns(RuntimeWarning, match="it is damaged; trying the one before"),
        pytest.raises(CheckpointError, match="must hold a valid checkpoint, and all 2 are damaged"),
    ):
        train(tmp_path, resume=True)


def test_a_damaged_newest_one_is_reported_and_the_one_before_used(tmp_path):
    train(tmp_path)
    newest = files.listed(tmp_path)[-1]
    newest.write_bytes(b"\0" * 100)
    with pytest.warns(RuntimeWarning, match=f"{newest.name} must have the SHA-256 in its name"):
        again = train(tmp_path, resume=True)
    assert differences(train(None), again) == []


def test_the_newest_and_the_best_are_kept_and_scratch_files_go(tmp_path):
    (tmp_path / ".plainfit-0123456789abcdef.tmp").write_bytes(b"left by a killed process")
    keeper = Checkpointing(tmp_path, every_steps=1, keep=3)
    train(tmp_path, checkpoint=keeper)
    steps = [int(path.name[:12]) for path in files.listed(tmp_path)]
    assert steps[-3:] == [14, 15, 15]  # the last step, and the end of its epoch
    assert keeper.best_step in (5, 10, 15)
    assert set(steps) == {*steps[-3:], keeper.best_step}
    assert not list(tmp_path.glob(".*"))


def test_by_time(tmp_path):
    train(tmp_path, checkpoint=Checkpointing(tmp_path, every_seconds=0.0, keep=50))
    assert len(files.listed(tmp_path)) == 15 + 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": 1}, "at least 2 checkpoints are kept, got keep=1"),
        ({"every_steps": 0}, "written every 1 or more steps, got 0"),
        ({"every_seconds": float("nan")}, "written every 0 or more seconds, got nan"),
    ],
)
def test_bad_settings(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        Checkpointing(tmp_path, **options)


def test_a_disk_that_changes_what_it_is_given_is_found_at_once(tmp_path, monkeypatch):
    files.save(tmp_path, 1, small_state())
    write = files.write_whole
    monkeypatch.setattr(files, "write_whole", lambda path, *parts: write(path, *parts[:-1], b"!"))
    with pytest.raises(CheckpointError, match="must have the SHA-256 in its name"):
        files.save(tmp_path, 2, small_state())
    (left,) = tmp_path.iterdir()
    assert left.name.startswith("000000000001-")


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"file.new must be writable \(Not"):
        train(tmp_path / "file" / "new")


def test_what_a_model_adds_to_its_state_is_resumed(tmp_path):
    class Counting(nn.Linear):
        """Learns less the longer it has been trained, which only its own state tells."""

        seen = 0

        def forward(self, xb):
            self.seen += self.training
            return super().forward(xb) / (1 + self.seen)

        def get_extra_state(self):
            return {"seen": self.seen}

        def set_extra_state(self, state):
            self.seen = state["seen"]

    x, y = torch.randn(20, 4, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 3

    def losses(epochs, **options):
        torch.manual_seed(0)
        model = Counting(4, 3)
        opt = optim.SGD(model.parameters(), lr=0.1)
        dl = list(zip(x.split(5), y.split(5), strict=True))
        return pf.fit(epochs, model, F.cross_entropy, opt, dl, None, echo=None, **options)

    losses(2, checkpoint=tmp_path)
    assert losses(4, checkpoint=tmp_path, resume=True).step_losses == losses(4).step_losses


# another training than the checkpoint's


def fit_with(folder, model, opt=None, **options):
    data = [(torch.zeros(4, 3), torch.tensor([0, 1, 0, 1]))]
    opt = opt or optim.SGD(model.parameters(), lr=0.1)
    return pf.fit(
        2, model, F.cross_entropy, opt, data, data, checkpoint=folder, echo=None, **options
    )


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            nn.Linear(3, 4),
            r"and weight is torch.float32 of shape \(4, 3\), in the checkpoint .*\(2",
        ),
        (nn.Linear(3, 2, bias=False), "the model must be the checkpoint's: it lacks bias"),
        (nn.Linear(3, 2).double(), "and weight is torch.float64"),
        (nn.Sequential(nn.Linear(3, 2)), "layers was Linear, is Sequential Linear"),
    ],
)
def test_another_model_is_refused_and_left_as_it_was(tmp_path, model, message):
    fit_with(tmp_path, nn.Linear(3, 2))
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(CheckpointError, match=message):
        fit_with(tmp_path, model, resume=True)
    assert all(map(torch.equal, before, model.parameters()))


def test_another_optimizer_or_missing_callbacks_are_refused(tmp_path):
    fit_with(tmp_path, nn.Linear(3, 2), callbacks=[GradientAccumulation(2)])
    model = nn.Linear(3, 2)
    opt = optim.SGD([{"params": [p]} for p in model.parameters()], lr=0.1)
    with pytest.raises(CheckpointError, match=r"groups of \[2\] parameters, got \[1, 1\]"):
        fit_with(tmp_path, model, opt, resume=True)
    with pytest.raises(CheckpointError, match="these are missing: GradientAccumulation"):
        fit_with(tmp_path, nn.Linear(3, 2), resume=True)


def test_another_machine_is_a_warning(tmp_path):
    train(tmp_path, callbacks=[StopAt(3)])
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        with pytest.warns(RuntimeWarning, match=rf"threads was {threads}, is {threads + 1}"):
            train(tmp_path, resume=True)
    finally:
        torch.set_num_threads(threads)


def test_early_stopping_stays_stopped(tmp_path):
    model = nn.Linear(3, 2)
    rising = [(torch.zeros(4, 3), torch.tensor([0, 1, 0, 1]))]
    histories = []
    for resume in (False, True):
        opt = optim.SGD(model.parameters(), lr=0.0)  # nothing improves
        histories.append(
            pf.fit(
                9, model, F.cross_entropy, opt, rising, rising, checkpoint=tmp_path, resume=resume,
                callbacks=[EarlyStopping(2)], echo=None,
            )
        )  # fmt: skip
    assert [len(history) for history in histories] == [3, 3]
    assert histories[1].stopped == "no better validation loss for 2 epochs"


def test_optimizer_state_of_another_dtype_comes_back_as_it_was(tmp_path):
    """torch's own load_state_dict would cast it to the parameter's dtype."""

    class Keeper(optim.SGD):
        def step(self, closure=None):
            super().step(closure)
            for p in self.param_groups[0]["params"]:
                self.state[p]["sum"] = self.state[p].get("sum", 0) + p.grad.double()

    weights = []
    for folder in ("a", "b"):
        for resume in (False, True):
            torch.manual_seed(0)
            model = nn.Linear(3, 2).bfloat16()
            opt = Keeper(model.parameters(), lr=0.1, momentum=0.9)
            data = [(torch.ones(4, 3).bfloat16(), torch.tensor([0, 1, 0, 0]))] * 4
            stop = [StopAt(2)] if folder == "b" and not resume else []
            pf.fit(
                2, model, F.cross_entropy, opt, data, None, callbacks=stop,
                checkpoint=tmp_path / folder, resume=resume, echo=None,
            )  # fmt: skip
        weights.append([opt.state_dict()["state"], model.state_dict()])
    assert weights[0][0][0]["sum"].dtype == torch.float64
    assert differences(*weights) == []


def test_in_one_process_too(tmp_path):
    """As in a notebook: stop, look, go on with the same objects."""
    torch.manual_seed(1)
    model = Net()
    opt = optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    train_dl, valid_dl = loaders("memory")
    for resume, stop in ((False, [StopAt(7)]), (True, [])):
        history = pf.fit(
            3, model, F.cross_entropy, opt, train_dl, valid_dl, callbacks=stop,
            checkpoint=tmp_path, resume=resume, echo=None,
        )  # fmt: skip
    torch.manual_seed(1)
    whole = Net()
    whole_opt = optim.SGD(whole.parameters(), lr=0.05, momentum=0.9)
    straight = pf.fit(3, whole, F.cross_entropy, whole_opt, *loaders("memory"), echo=None)
    assert differences(outcome(whole, whole_opt, straight), outcome(model, opt, history)) == []


class Claims(list):
    """A loader that says it has so many batches."""

    def __len__(self):
        return 10


def test_a_loader_that_gives_fewer_batches_than_were_used_is_refused(tmp_path):
    batches = [(torch.ones(4, 3), torch.tensor([0, 1, 0, 0]))] * 10
    for given, stop, resume in ((10, [StopAt(7)], False), (6, [], True)):
        model = nn.Linear(3, 2)
        call = (2, model, F.cross_entropy, optim.SGD(model.parameters()), Claims(batches[:given]))
        options = {"checkpoint": tmp_path, "resume": resume, "callbacks": stop, "echo": None}
        if not resume:
            pf.fit(*call, None, **options)
    with pytest.raises(CheckpointError, match="has used 7 of this epoch, and gives 6; resume"):
        pf.fit(*call, None, **options)


X, Y = torch.randn(100, 5, generator=torch.Generator().manual_seed(0)), torch.arange(100) % 3


def go_on(
    folder, *, epochs=3, bs=10, seed=0, lr=0.1, optimizer="sgd", x=X, layer=nn.ReLU, **options
):
    """Train, or go on, by nothing but arguments; return the history and the optimizer."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), layer(), nn.Linear(8, 3))
    opt = (
        optim.SGD(model.parameters(), lr) if optimizer == "sgd" else optim.Adam(model.parameters())
    )
    data = TensorDataset(x, Y[: len(x)])
    loaders = pf.get_data(data, data, bs=bs, seed=seed)
    options = {"checkpoint": folder, "resume": True, "echo": None} | options
    return pf.fit(epochs, model, F.cross_entropy, opt, *loaders, **options), opt


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"bs": 20}, "batch size was 10, is 20; steps in an epoch was 10, is 5"),
        ({"seed": 1}, "seed of the order was 0, is 1"),
        ({"x": X[:50]}, "samples was 100, is 50"),
        ({"x": X + 1}, "sums over the data was"),
        ({"layer": nn.Tanh}, "layers was Sequential Linear ReLU Linear, is Sequential Linear Tanh"),
        ({"optimizer": "adam"}, "optimizer was SGD, is Adam"),
    ],
)
def test_what_cannot_continue_a_training_is_refused(tmp_path, other, message):
    go_on(tmp_path, callbacks=[StopAt(15)])
    before = sorted(tmp_path.iterdir())
    with pytest.raises(CheckpointError, match=message):
        go_on(tmp_path, **other)
    assert sorted(tmp_path.iterdir()) == before


def test_fewer_epochs_than_begun_are_refused(tmp_path):
    go_on(tmp_path, callbacks=[StopAt(15)])
    with pytest.raises(ConfigError, match=r"epochs must be at least 2, .* has begun, got 1"):
        go_on(tmp_path, epochs=1)
    assert len(go_on(tmp_path, epochs=2)[0]) == 2


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"lr": 0.01}, "from step 15 on, lr of group 0 was 0.1, is 0.01$"),
        ({"schedule": "cosine"}, r"LearningRate.schedule was None, is Cosine\(steps=30"),
        ({"precision": "bf16"}, "precision was fp32, is bf16"),
        ({"callbacks": [GradientClipping(1.0)]}, "GradientClipping.max_norm was None, is 1.0"),
    ],
)
def test_what_differs_otherwise_is_a_branch(tmp_path, other, message):
    go_on(tmp_path, callbacks=[StopAt(15)])
    with pytest.warns(RuntimeWarning, match=f"goes on as a branch: .*{message}"):
        history, opt = go_on(tmp_path, **other)
    assert opt.param_groups[0]["lr"] == other.get("lr", 0.1)
    assert len(history.run.branches) == 1
    kept = files.newest(tmp_path, print)[1]["setup"]["branches"]
    assert kept == history.run.branches
    with pytest.raises(EjectError, match=r"resumed with others .from step 15 on"):
        history.run.eject(tmp_path / "train.py")
    again, _ = go_on(tmp_path, **other)  # the same as before: nothing new
    assert again.run.branches == kept


def test_a_longer_training_is_said_and_noted(tmp_path):
    lines = []
    go_on(tmp_path, schedule="one-cycle", callbacks=[StopAt(15)])
    history, _ = go_on(tmp_path, epochs=4, schedule="one-cycle", echo=lines.append)
    assert lines[0].startswith("note   from step 15 on, epochs was 3, is 4; LearningRate.schedule")
    assert history.run.branches == [lines[0].removeprefix("note   ")]


def test_a_new_rate_holds_from_the_next_step_on(tmp_path):
    go_on(tmp_path, callbacks=[StopAt(15)])
    with pytest.warns(RuntimeWarning, match="branch"):
        history, _ = go_on(tmp_path, lr=0.01)

    class Lower(pf.Callback):
        def on_batch_start(self, context):
            if context.global_step == 15:
                context.opt.param_groups[0]["lr"] = 0.01

    whole, _ = go_on(None, resume=False, callbacks=[Lower()])
    assert history.step_losses == whole.step_losses

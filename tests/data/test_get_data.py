"""What `get_data` takes: arrays, data frames, lists, splits, shares, samplers."""

from collections import namedtuple
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
    random_split,
)

import plainfit as pf
from ejecting import differing, run_here
from plainfit.common.errors import ConfigError, DataError, EjectError, ModelError
from plainfit.common.seeding import stream
from plainfit.data.datasets import Columns
from plainfit.data.loaders import SampleLoader, TensorLoader

X = np.random.default_rng(0).normal(size=(40, 4))
Y = (X[:, 0] > 0).astype("int32")
TENSORS = TensorDataset(torch.tensor(X).float(), torch.tensor(Y).long())
IMAGES = pf.ImageDataset(torch.arange(160, dtype=torch.uint8).view(40, 1, 2, 2), torch.arange(40))
FRAME = pd.DataFrame(X, columns=list("abcd")).assign(label=Y)


def epoch(dl):
    """The batches of an epoch: each a list of tensors, or a dict."""
    return [batch if isinstance(batch, dict) else list(batch) for batch in dl]


def parts(batch):
    return batch.values() if isinstance(batch, dict) else batch


def same(ours, theirs):
    return len(ours) == len(theirs) and all(
        one.dtype == other.dtype and torch.equal(one, other)
        for batch, wanted in zip(ours, theirs, strict=True)
        for one, other in zip(parts(batch), parts(wanted), strict=True)
    )


@pytest.mark.parametrize(
    "data",
    [
        (X, Y),
        (X.astype(">f8"), Y.astype("uint8")),
        (torch.tensor(X), torch.tensor(Y)),
        (X.tolist(), Y.tolist()),
        (X, Y > 0),
        (FRAME[list("abcd")], FRAME.label),
        list(zip(X, Y, strict=True)),
        [(torch.tensor(x), int(y)) for x, y in zip(X, Y, strict=True)],
        [(x.tolist(), int(y)) for x, y in zip(X, Y, strict=True)],
        Subset(list(zip(X, Y, strict=True)), range(40)),
    ],
    ids=["arrays", "other byte order", "tensors", "lists", "boolean", "data frames", "samples",
         "samples of tensors", "samples of lists", "split of samples"],
)  # fmt: skip
def test_whatever_holds_the_numbers_they_are_those_of_a_tensor_dataset(data):
    ours, theirs = (pf.get_data(given, given, 8, seed=3) for given in (data, TENSORS))
    for _ in range(2):
        assert same(epoch(ours[0]), epoch(theirs[0]))
    assert same(epoch(ours[1]), epoch(theirs[1]))


def test_columns_of_a_data_frame():
    train_dl, _ = pf.get_data(FRAME, None, 8, target="label")
    assert same(epoch(train_dl), epoch(pf.get_data(TENSORS, None, 8)[0]))
    whole = FRAME.assign(n=pd.array([1] * 40, "Int64"), flag=FRAME.a > 0)
    _, valid_dl = pf.get_data(whole, whole, 20, target=["label", "d"])
    xb, yb = next(iter(valid_dl))
    inputs = whole.drop(columns=["label", "d"]).to_numpy("float32")
    assert torch.equal(xb, torch.tensor(inputs))
    assert torch.equal(yb, torch.tensor(whole[["label", "d"]].to_numpy("float32")))
    counts = FRAME.assign(a=range(40))[["a", "label"]]  # of whole numbers only
    xb, yb = next(iter(pf.get_data(counts, None, 4, target="label")[0]))
    assert (xb.dtype, yb.dtype) == (torch.float32, torch.int64)


def test_one_array_several_inputs_and_arrays_by_name():
    [[xb], *_] = epoch(pf.get_data(X, None, 8, shuffle=False)[0])
    assert torch.equal(xb, torch.tensor(X[:8]).float())
    [[series], *_] = epoch(pf.get_data(FRAME.a, None, 8, shuffle=False)[0])
    assert torch.equal(series, xb[:, 0])
    [[xb], *_] = epoch(pf.get_data(list(TENSORS.tensors[0]), None, 8, shuffle=False)[0])
    assert torch.equal(xb, TENSORS.tensors[0][:8])
    parts = epoch(pf.get_data((X, X[:, 0], Y), None, 40, shuffle=False)[0])[0]
    assert [part.shape for part in parts] == [(40, 4), (40,), (40,)]
    rows = [{"x": x.tolist(), "y": int(y)} for x, y in zip(X, Y, strict=True)]
    for data in ({"x": X, "y": Y}, rows, Subset(rows, range(40))):
        batches = epoch(pf.get_data(data, None, 8, seed=3)[0])
        assert list(batches[0]) == ["x", "y"]
        pairs = [[batch["x"], batch["y"]] for batch in batches]
        assert same(pairs, epoch(pf.get_data(TENSORS, None, 8, seed=3)[0]))


def test_images_of_bytes_are_floats_when_read():
    images, labels = IMAGES.tensors
    for data in ((images.numpy(), labels.int()), list(zip(images, labels, strict=True))):
        train_dl, _ = pf.get_data(data, None, 8)
        assert same(epoch(train_dl), epoch(pf.get_data(IMAGES, None, 8)[0]))
    [[xb], *_] = epoch(pf.get_data(images, None, 8, shuffle=False)[0])
    assert torch.equal(xb, images[:8].float() / 256)


def test_what_is_no_array_is_read_sample_by_sample():
    texts = [("a", 1), ("bb", 0)]
    [[names, labels]] = epoch(pf.get_data(texts, None, 2, shuffle=False)[0])
    assert (list(names), labels.tolist()) == (["a", "bb"], [1, 0])
    ragged = [([1.0, 2.0], 1), ([3.0], 0)]
    train_dl, valid_dl = pf.get_data(ragged, ragged, 2, shuffle=False, collate_fn=list)
    assert list(train_dl) == list(valid_dl) == [ragged]
    Pair = namedtuple("Pair", "x y")
    [pair] = pf.get_data([Pair(1.0, 2)], None, 1)[0]
    assert pair._fields == ("x", "y")


SPLITS = {
    "split": Subset(TENSORS, [3, 1, -1, 7]),
    "indices as an array": Subset(TENSORS, np.array([3, 1])),
    "split of a split": Subset(Subset(TENSORS, range(10, 30)), [4, 0, 19]),
    "joined": ConcatDataset([TENSORS, Subset(TENSORS, [5, 2])]),
    "split of joined": Subset(ConcatDataset([TENSORS, TENSORS]), [*range(79, 0, -2)]),
    "images": ConcatDataset([Subset(IMAGES, [9, 8]), IMAGES]),
    "images and floats": ConcatDataset(
        [IMAGES, TensorDataset(torch.rand(3, 1, 2, 2), torch.arange(3))]
    ),
    "two types": ConcatDataset(
        [TENSORS, TensorDataset(TENSORS.tensors[0].double(), torch.ones(40))]
    ),
    "two dicts": ConcatDataset([Columns({"x": torch.rand(5)}), Columns({"x": torch.zeros(3)})]),
    "three tensors": Subset(TensorDataset(*TENSORS.tensors, torch.arange(40)), [5, 6]),
}


@pytest.mark.parametrize("data", SPLITS.values(), ids=SPLITS.keys())
def test_splits_and_joints_of_tensors_are_gathered_to_the_same_batches(data):
    train_dl, _ = pf.get_data(data, None, 7, seed=1)
    assert isinstance(train_dl, TensorLoader)
    for number in range(2):
        order = torch.randperm(len(data), generator=stream(1, "order", number))
        wanted = [default_collate([data[i] for i in rows]) for rows in order.split(7)]
        assert same(epoch(train_dl), wanted)
    train_dl.seek(1, len(wanted) - 1)
    assert same(epoch(train_dl), wanted[-1:])


class Own(TensorDataset):
    def __getitem__(self, index):
        return (*super().__getitem__(index), "own")


@pytest.mark.parametrize(
    "data", [Own(torch.zeros(4)), ConcatDataset([TENSORS, Own(*TENSORS.tensors)])]
)
def test_a_split_of_anything_else_is_read_as_it_is(data):
    assert isinstance(pf.get_data(Subset(data, [0, 1]), None, 2)[0], SampleLoader)


def test_no_validation_and_a_share_of_each_class():
    assert pf.get_data((X, Y), None, 8)[1] is None
    labels = np.repeat([0, 1, 5], [60, 30, 10])
    for data in ((labels, labels), TensorDataset(torch.tensor(labels), torch.tensor(labels))):
        train_dl, valid_dl = pf.get_data(data, 0.2, 8, seed=4)
        parts = [torch.cat([yb for _, yb in dl]).tolist() for dl in (train_dl, valid_dl)]
        counts = [[part.count(label) for label in (0, 1, 5)] for part in parts]
        assert counts == [[48, 24, 8], [12, 6, 2]]
        again = torch.cat([yb for _, yb in pf.get_data(data, 0.2, 8, seed=4)[1]])
        assert parts[1] == again.tolist()
    ids = torch.arange(100)
    shares = [
        torch.cat([xb for xb, _ in pf.get_data((ids, ids), 0.2, 8, seed=s)[1]]) for s in (1, 2)
    ]
    assert [len(share.unique()) for share in shares] == [20, 20]
    assert not torch.equal(*shares)


@pytest.mark.parametrize("own", [None, torch.Generator()])
@pytest.mark.parametrize("options", [{}, {"collate_fn": list}], ids=["memory", "DataLoader"])
def test_a_sampler_is_a_function_of_seed_and_epoch(own, options):
    sampler = WeightedRandomSampler([1.0] * 20 + [0.0] * 20, 50, generator=own)
    train_dl, _ = pf.get_data((X, np.arange(40)), None, 8, sampler=sampler, **options)
    state = torch.get_rng_state()
    first, second = ([str(batch) for batch in train_dl] for _ in range(2))
    assert len(train_dl) == len(first) == 7
    assert first != second
    train_dl.seek(0, 4)
    assert [str(batch) for batch in train_dl] == first[4:]
    assert [str(batch) for batch in train_dl] == second
    assert torch.equal(torch.get_rng_state(), state)
    assert "20" not in str(first).split()


class Labelled(list):
    """Samples that are read one by one, and their labels."""

    labels = torch.tensor([0] * 27 + [1] * 9 + [2] * 4)

    def __init__(self):
        super().__init__((row, label) for row, label in enumerate(self.labels))


@pytest.mark.parametrize(
    ("data", "options"),
    [((torch.arange(40), Labelled.labels), {}), (Labelled(), {"collate_fn": default_collate,
     "num_workers": 1})],
    ids=["memory", "DataLoader"],
)  # fmt: skip
def test_balanced_draws_each_class_as_often(data, options):
    train_dl, _ = pf.get_data(data, None, 16, sampler="balanced", seed=3, **options)
    weights = torch.tensor([1 / 27] * 27 + [1 / 9] * 9 + [1 / 4] * 4, dtype=torch.float64)
    drawn = torch.zeros(3)
    for epoch in range(2):
        order = stream(3, "order", epoch)
        by_hand = torch.multinomial(weights, 40, replacement=True, generator=order)
        train_dl.seek(epoch, 1)
        assert torch.equal(torch.cat([xb for xb, _ in train_dl]), by_hand[16:])
        drawn += Labelled.labels[by_hand].bincount()
    assert drawn.min() > 80 / 3 / 2


def test_a_last_batch_of_one_is_counted_by_the_sampler():
    model = nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2))
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    train_dl, _ = pf.get_data((X, Y), None, 8, sampler=range(33))
    with pytest.raises(ConfigError, match=r"got 33 = 4 \* 8 \+ 1 samples; set drop_last"):
        pf.fit(1, model, F.cross_entropy, opt, train_dl, None, echo=None)


def test_without_shuffle_random_samples_still_differ_between_epochs():
    class Noisy(Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            return torch.rand(()), index

    train_dl, valid_dl = pf.get_data(Noisy(), Noisy(), 2, shuffle=False)
    first, second = epoch(train_dl), epoch(train_dl)
    assert [yb.tolist() for _, yb in first] == [[0, 1], [2, 3]] == [yb.tolist() for _, yb in second]
    assert not same(first, second)
    assert same(epoch(valid_dl), epoch(valid_dl))


class Stream(IterableDataset):
    def __iter__(self):
        return iter(TENSORS)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: pf.get_data((X, Y[:5]), None, 8), DataError, "train_ds must .* got 40 and 5"),
        (lambda: pf.get_data((), None, 8), DataError, "got no arrays"),
        (lambda: pf.get_data((X, Y), (X[:0], Y[:0]), 8), ValueError, "at least one sample"),
        (lambda: pf.get_data((X, ["a"] * 40), None, 8), DataError, "got <U1 such as .*'a'"),
        (lambda: pf.get_data(FRAME.assign(b="x"), None, 8, target="a"), DataError,
         "column 'b' must be numbers, got object such as 'x'"),
        (lambda: pf.get_data(FRAME.assign(b=np.nan), None, 8, target="a"), DataError,
         "no missing values, and has some in 'b'"),
        (lambda: pf.get_data(FRAME, None, 8), ConfigError, "target names the column .* got None"),
        (lambda: pf.get_data(FRAME, None, 8, target="lable"), ConfigError, "did you mean 'label'"),
        (lambda: pf.get_data((X, Y), None, 8, target="a"), ConfigError, "pass target to fit"),
        (lambda: pf.get_data(FRAME, FRAME[["b", "a", "c", "d", "label"]], 8, target="label"),
         DataError, "in one order, got a, b, c, d, label and b, a"),
        (lambda: pf.get_data(([[1.0], [1.0, 2.0]], [0, 1]), None, 8), DataError, "of one shape"),
        (lambda: pf.get_data((1.0, 2.0), None, 8), DataError, "a row for each sample, got 1.0"),
        (lambda: pf.get_data("mnist", None, 8), ConfigError, "got str; .* to fit as they are"),
        (lambda: pf.get_data(DataLoader(TENSORS), None, 8), ConfigError, "got DataLoader"),
        (lambda: pf.get_data(zip(X, Y, strict=True), None, 8), ConfigError, "got zip"),
        (lambda: pf.get_data(TENSORS, 3, 8), ConfigError, "valid_ds must be a share .* got 3"),
        (lambda: pf.get_data(Stream(), 0.2, 8), ConfigError, "got 0.2 of a Stream"),
        (lambda: pf.get_data(Stream(), None, 8, sampler=[1]), ConfigError, "got a stream"),
        (lambda: pf.get_data(Stream(), None, 8, shuffle=True), ConfigError, "got a stream"),
        (lambda: pf.get_data((X, X), None, 8, sampler="balanced"), ConfigError, "one class each"),
        (lambda: pf.get_data(TENSORS, None, 8, sampler="balancd"), ConfigError,
         "unknown sampler 'balancd': .* did you mean 'balanced'"),
        (lambda: pf.get_data(TENSORS, None, 8, sampler=[1], shuffle=True), ConfigError,
         "leave one out"),
        (lambda: list(pf.get_data(TENSORS, None, 8, sampler=BatchSampler(range(4), 2, False))[0]),
         ConfigError, "one row at a time"),
    ],
)  # fmt: skip
def test_what_cannot_be_data_is_refused_in_one_line(call, error, says):
    with pytest.raises(error, match=says) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_hugging_face_data_set_gives_tensors_by_name():
    datasets = pytest.importorskip("datasets")
    table = pytest.importorskip("pyarrow").table({"x": X.tolist(), "y": Y, "text": ["a"] * 40})
    rows = datasets.Dataset(table, fingerprint="1")
    for data in (rows, rows.with_format("torch"), random_split(rows, [40, 0])[0]):
        train_dl, valid_dl = pf.get_data(data, 0.2, 8)
        batch = next(iter(train_dl))
        assert [batch[name].dtype for name in "xy"] == [torch.float32, torch.int64]
        assert batch["text"] == ["a"] * 8
        assert sum(len(batch["y"]) for batch in valid_dl) == 8
    [batch, *_] = pf.get_data(rows, None, 8, collate_fn=list)[0]
    assert isinstance(batch[0]["x"], list)


def trained(train_dl, valid_dl=None, epochs=2, **options):
    torch.manual_seed(0)
    model = nn.Linear(4, 2)
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    history = pf.fit(epochs, model, F.cross_entropy, opt, train_dl, valid_dl, echo=None, **options)
    return model, history


@pytest.mark.parametrize("sampler", [WeightedRandomSampler([1.0] * 30, 30), "balanced"])
def test_a_training_on_a_split_resumes_with_the_same_bits(tmp_path, sampler):
    split, _ = random_split(TENSORS, [30, 10], generator=stream(0, "split"))
    serve = partial(pf.get_data, split, None, 8, sampler=sampler)

    class Stop(pf.Callback):
        def on_step_end(self, context):
            context.stop = "here" if context.global_step == 6 else context.stop

    model, whole = trained(serve()[0])
    trained(serve()[0], checkpoint=tmp_path, callbacks=[Stop()])
    again, resumed = trained(serve()[0], checkpoint=tmp_path, resume=True)
    assert resumed.step_losses == whole.step_losses
    assert not differing(again.state_dict(), model.state_dict())


@pytest.mark.parametrize("name", ["split", "split of joined"])
def test_a_training_on_a_split_ejects(tmp_path, name):
    model, history = trained(*pf.get_data(SPLITS[name], TENSORS, 3))
    losses, weights = run_here(history.run.eject(tmp_path / "train.py", echo=None))
    assert losses == history.step_losses
    assert not differing(weights, model.state_dict())


@pytest.mark.parametrize("options", [{"sampler": range(40)}, {"collate_fn": tuple}])
def test_own_ways_of_serving_are_refused_by_eject(tmp_path, options):
    def pair(samples):
        return tuple(default_collate(samples))

    options = {"collate_fn": pair} if "collate_fn" in options else options
    _, history = trained(pf.get_data(TENSORS, None, 8, **options)[0])
    with pytest.raises(EjectError, match="without a sampler or collate_fn of your own"):
        history.run.eject(tmp_path / "train.py", echo=None)


@pytest.mark.parametrize("loss", [F.mse_loss, F.l1_loss, F.smooth_l1_loss, nn.HuberLoss()])
def test_targets_that_would_be_broadcast_are_refused(loss):
    model = nn.Linear(4, 1)
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    train_dl, _ = pf.get_data((X, X[:, 0]), None, 8)
    before = model.weight.clone()
    with pytest.raises(ModelError, match=r"by y.unsqueeze\(1\) .*\[8\]\).*\[8, 1\]"):
        pf.fit(1, model, loss, opt, train_dl, None, echo=None)
    assert torch.equal(model.weight, before)
    train_dl, _ = pf.get_data((X, X[:, :1]), None, 8)
    assert len(pf.fit(1, model, loss, opt, train_dl, None, echo=None)) == 1

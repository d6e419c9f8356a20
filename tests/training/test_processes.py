"""The same bits on any number of processes: losses, weights, validation, resumed trainings."""

import itertools
import math
import os
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn, optim
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset, TensorDataset

import plainfit as pf
from plainfit.common.errors import PlainfitError
from plainfit.data.pieces import Pieces, Shards, cut
from plainfit.training.callbacks import (
    Averaging,
    Checkpointing,
    GradientAccumulation,
    GradientClipping,
    OverfitOneBatch,
    Unfreezing,
)
from plainfit.training.hooks import Callback
from plainfit.training.pairwise import nodes_of
from plainfit.training.processes import join
from plainfit.training.sharding import adds_up
from plainfit.training.validation import validate
from ranks import on_processes
from trainings import Noisy, StopAt, differences, noise

CLASSES, BS = 5, 18


def images(n=47, dtype=torch.float32):
    g = torch.Generator().manual_seed(0)
    x = torch.rand(n, 1, 8, 8, generator=g, dtype=dtype)
    return x, torch.randint(CLASSES, (n,), generator=g)


class Block(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(n, n, 3, padding=1), nn.BatchNorm2d(n)

    def forward(self, xb):
        return F.relu(xb + self.norm(self.conv(xb)))


class Replacing(nn.Module):
    """A mean that moves, as people write it: each forward pass puts another tensor in its place."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(64))
        self.head = nn.Linear(64, CLASSES)

    def forward(self, xb):
        xb = xb.flatten(1)
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * xb.mean(0)
        return self.head(xb - self.mean)


class Flat(nn.Module):
    """Takes images in a tuple, a mapping or a list of samples, and may compute its own loss."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(64, CLASSES)

    def forward(self, image, shift=None, labels=None):
        if isinstance(image, list):
            image = torch.stack([xb for xb, _ in image])
        out = self.head(image.flatten(1) + (0 if shift is None else shift[:, None]))
        if labels is None:
            return out
        return {"loss": F.cross_entropy(out, labels, ignore_index=1), "logits": out}


MODELS = {
    "logistic": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES)),
    "mlp": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, CLASSES)
    ),
    "cnn": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3, 2), nn.ReLU(), nn.Conv2d(4, CLASSES, 3), nn.Flatten()
    ),
    "resnet": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3), Block(4), Block(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, CLASSES),
    ),
    "replacing": Replacing,
    "flat": Flat,
}  # fmt: skip


def trained(make="logistic", dls=None, opt="sgd", loss=F.cross_entropy, callbacks=(), **options):
    """Train, and return everything that must be equal in the end."""
    torch.manual_seed(1)
    model = MODELS[make]() if isinstance(make, str) else make()
    optimizer = (
        optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        if opt == "sgd"
        else optim.AdamW(model.parameters(), lr=1e-2)
    )
    made = in_memory() if dls is None else dls()
    train_dl, valid_dl = made if isinstance(made, tuple) else (made, None)
    if valid_dl is not None:
        options = {"metrics": ["accuracy"]} | options
    options = {"epochs": 1} | options
    history = pf.fit(
        options.pop("epochs"), model, loss, optimizer, train_dl, valid_dl, callbacks=callbacks,
        echo=None, **options,
    )  # fmt: skip
    times = ("seconds", "samples_per_second")
    return {
        "model": {**dict(model.named_buffers()), **model.state_dict()},
        "optimizer": optimizer.state_dict(),
        "callbacks": [callback.state_dict() for callback in callbacks],
        "losses": history.step_losses,
        "epochs": [{k: v for k, v in row.items() if k not in times} for row in history.epochs],
        "random": torch.get_rng_state(),
    }


def in_memory(n=47, augment=None, **options):
    x, y = images(n)
    sets = TensorDataset(x, y), TensorDataset(x[:30], y[:30])
    return pf.get_data(*sets, BS, seed=5, augment=augment, **options)


def case(model, how, augment, n, shards):
    """A training of the issue's matrix."""
    options = {"callbacks": [GradientClipping(0.5)], "schedule": "one-cycle"}
    if how == "adamw":
        options = {"callbacks": [GradientAccumulation(2), Averaging(0.9)]}
    dls = lambda: in_memory(n, "pad-and-crop,noise=0.1,cutmix" if augment else None)  # noqa: E731
    return trained(model, dls, how, shards=shards, epochs=2, **options)


def both(make):
    """Return a loader of training, and the same for validation."""
    return lambda: (make(), make())


class Named(Dataset):
    def __init__(self, *names):
        self.names = names
        self.x, self.y = images()

    def __len__(self):
        return len(self.x)

    def __getitem__(self, row):
        parts = [self.x[row], torch.tensor(row / len(self)), self.y[row]]
        return dict(zip(("image", "shift", "labels"), parts, strict=True))

    def __getitems__(self, rows):
        return [{name: self[row][name] for name in self.names} for row in rows]


class Stream(IterableDataset):
    def __init__(self, n=47):
        self.n = n

    def __iter__(self):
        for xb, yb in zip(*images(self.n), strict=True):
            yield xb + 0.1 * torch.randn(()), yb


class UserWrapper:
    """A wrapper such as those of tutorials, which takes each batch apart."""

    def __init__(self, dl):
        self.dl = dl

    def __iter__(self):
        for xb, yb in self.dl:
            yield 2 * xb, yb


def listed():
    return list(zip(*(part.split(BS) for part in images()), strict=True))


def noisy():
    return Noisy(*images())


def positive(xb, yb):
    return int((yb > 0).sum())


def of_samples(out, batch):
    return F.cross_entropy(out, torch.stack([yb for _, yb in batch]))


def wrapped():
    wrap = pf.WrappedDataLoader
    return tuple(wrap(wrap(dl, noise), noise) for dl in in_memory())


BITS = {
    "logistic, sgd": lambda: case("logistic", "sgd", False, 42, 8),
    "mlp, adamw, augmented": lambda: case("mlp", "adamw", True, 37, 8),
    "cnn, sgd, augmented": lambda: case("cnn", "sgd", True, 47, 4),
    "resnet, sgd": lambda: case("resnet", "sgd", False, 40, 4),
    "a buffer that is replaced": lambda: trained("replacing", epochs=2),
    "samples": lambda: trained("mlp", lambda: pf.get_data(noisy(), noisy(), BS)),
    "wrapped twice": lambda: trained(dls=wrapped, epochs=2),
    "wrapped by the user": lambda: trained(dls=lambda: tuple(map(UserWrapper, in_memory()))),
    "balanced": lambda: trained(dls=lambda: in_memory(sampler="balanced")),
    "stock": lambda: trained(dls=both(lambda: DataLoader(noisy(), BS, shuffle=True)), epochs=2),
    "a list": lambda: trained("mlp", both(listed)),
    "a generator": lambda: trained(dls=lambda: iter(listed())),
    "a stream": lambda: trained(
        dls=lambda: pf.get_data(Stream(), Stream(), BS), steps_per_epoch=4, max_steps=7, epochs=None
    ),
    "mappings": lambda: trained(
        "flat", lambda: DataLoader(Named("image", "shift", "labels"), BS), target="labels"
    ),
    "a model's own loss": lambda: trained(
        "flat", lambda: pf.get_data(Named("image", "labels"), None, BS), loss=None
    ),
    "two inputs": lambda: trained(
        "flat", lambda: [(xb, yb / 5, yb) for xb, yb in listed()], train_metrics=["accuracy"]
    ),
    "lists of samples": lambda: trained(
        "flat", lambda: pf.get_data(noisy(), None, BS, collate_fn=list), loss=of_samples
    ),
    "cut lists of samples": lambda: trained(
        "flat", lambda: DataLoader(noisy(), BS, collate_fn=list), loss=of_samples
    ),
    "a number of samples": lambda: trained(
        dls=lambda: in_memory()[0], batch_size=positive, callbacks=[GradientAccumulation(2)]
    ),
    "values": lambda: trained(
        loss=lambda out, yb: (F.cross_entropy(out, yb), {"size": out.square().mean(), "one": 1})
    ),
    "fp16": lambda: trained("mlp", precision="fp16"),
    "several sets": lambda: trained(
        dls=lambda: (in_memory()[0], {"a": in_memory()[1], "b": in_memory(21)[0], "c": listed()}),
        epochs=2,
    ),
}


# A batch is cut in one way, whoever serves it: 3 processes train these, and all in `make soak`.
ON_THREE = (
    "mlp, adamw, augmented", "resnet, sgd", "samples", "balanced", "a stream", "two inputs",
    "cut lists of samples", "fp16", "several sets",
)  # fmt: skip


def distributed():
    world = int(os.environ["WORLD_SIZE"])
    return DataLoader(noisy(), BS, sampler=DistributedSampler(noisy()) if world > 1 else None)


def halves():
    x, y = images()
    rank, world = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE"))
    return pf.get_data((x[rank::world], y[rank::world]), None, 16)


def packed():
    return [(pack_sequence([torch.rand(n, 64) for n in range(16, 0, -1)]), torch.zeros(16))]


def squares(out, yb):
    return (out - F.one_hot(yb, CLASSES)).square().sum()


def synced():
    return nn.SyncBatchNorm.convert_sync_batchnorm(MODELS["resnet"]())


def half_of_sum(out, yb):
    return F.cross_entropy(out, yb, reduction="sum") / 2, {"size": out.abs().sum()}


EACH = "on every process, of which each computes a part"
REFUSED = {  # on any number of processes, or on several
    "train_dl must give the same batches " + EACH: lambda: trained(dls=distributed),
    "valid_dl must give the same batches " + EACH: lambda: trained(
        dls=lambda: (in_memory()[0], distributed())
    ),
    "train_dl must give the same batches": lambda: trained(
        dls=lambda: DataLoader(Stream(60 - 17 * int(os.environ["RANK"])), BS)
    ),
    "sums over the data was": lambda: trained(dls=halves),
    "loss_func must return the mean over the samples": lambda: trained(loss=squares),
    "mean of their losses, and adds samples up": lambda: trained(loss=half_of_sum),
    "step takes whole batches": lambda: trained(step=lambda model, batch, opt: None),
    "model must be without SyncBatchNorm where reduce='exact'": lambda: trained(synced),
    "batch_size must be at least": lambda: trained(
        synced, lambda: in_memory(BS + 3), reduce="fast"
    ),
    "OverfitOneBatch takes a whole batch": lambda: trained(callbacks=[OverfitOneBatch()]),
    "got a PackedSequence; serve samples by plainfit.get_data": lambda: trained(dls=packed),
    "its parts must have one length, got 5, 18": lambda: trained(
        dls=lambda: [(xb, torch.rand(5), yb) for xb, yb in listed()]
    ),
    "shards must be at most half of the samples of a batch, 18, got 10": lambda: trained(shards=10),
}


def outcomes_of(cases):
    """Return what comes of each case here; errors as texts."""

    def outcome(work):
        try:
            return work()
        except PlainfitError as error:
            return str(error)

    return {name: outcome(work) for name, work in cases.items()}


@pytest.fixture(scope="module", autouse=True)
def _warm():
    """Train once here, so that forked processes find every module loaded."""
    import torchmetrics  # noqa: F401

    trained(shards=2)


@pytest.fixture(scope="module")
def everywhere():
    """The outcomes of the cases on 1, 2 and 3 processes, of every one of these."""
    cases = {1: BITS, 2: BITS, 3: {name: BITS[name] for name in ON_THREE}}
    return {n: on_processes(n, lambda n=n: outcomes_of(cases[n] | REFUSED)) for n in cases}


@pytest.mark.parametrize("name", BITS)
def test_the_same_bits_on_1_2_and_3_processes(everywhere, name):
    [alone] = everywhere[1]
    assert not isinstance(alone[name], str), alone[name]
    assert all(map(math.isfinite, alone[name]["losses"]))
    others = everywhere[2] + everywhere[3] * (name in ON_THREE)
    assert [differences(alone[name], each[name]) for each in others] == [[]] * len(others)


@pytest.mark.soak
def test_the_same_bits_on_1_and_3_processes_of_every_case():
    work = lambda: outcomes_of(BITS)  # noqa: E731
    alone, *three = (run for n in (1, 3) for run in on_processes(n, work, 3600.0))
    assert [differences(alone, each) for each in three] == [[]] * 3


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_shared_is_refused_by_all(everywhere, message):
    of_several = ("same batches", "over the data", "SyncBatch", "batch_size must")
    is_of_several = any(text in message for text in of_several)
    for world in (2, 3) if is_of_several else (1, 2, 3):
        for outcomes in everywhere[world]:
            assert message in outcomes[message]


@pytest.mark.soak
def test_the_matrix_on_1_2_and_4_processes():
    names = [*MODELS][:4]
    matrix = [*itertools.product(names, ("sgd", "adamw"), (0, 1), (42, 43, 46, 47, 54), (4, 8))]
    work = lambda: [case(*each) for each in matrix]  # noqa: E731
    runs = [run for n in (1, 2, 4) for run in on_processes(n, work, 3600.0)]
    wrong = {each for run in runs for each, *two in zip(matrix, runs[0], run, strict=True)
             if differences(*two)}  # fmt: skip
    print(f"\n{len(matrix)} trainings on 1, 2 and 4 processes, {len(wrong)} differ")
    assert wrong == set()


def test_fast_has_the_same_bits_on_the_same_number_only():
    work = lambda: trained("mlp", reduce="fast")  # noqa: E731
    three, again, two = (on_processes(n, work) for n in (3, 3, 2))
    assert differences(three, again) == []
    assert differences(three[0], three[2]) == []
    assert differences(three[0], two[0]) != []


# Resuming


def stopped(folder, stops):
    """Train on to the next stop, with a checkpoint after each step."""
    each = Checkpointing(folder, every_steps=1)
    return trained(
        "mlp", lambda: in_memory(augment="light"), callbacks=[Averaging(0.9), StopAt(stops)],
        checkpoint=each, resume=True, epochs=3, shards=4, schedule="cosine",
        loss=lambda out, yb: (F.cross_entropy(out, yb), {"size": out.square().mean()}),
    )  # fmt: skip


def chain(folder, *legs):
    """Return the outcome of a training that goes on, each time on so many processes, to a step."""
    for world, stop in legs:
        outcomes = on_processes(world, lambda stop=stop: stopped(folder, stop))
    return outcomes


def test_a_resumed_training_on_another_number_of_processes(tmp_path):
    # An epoch has 3 steps. With several processes a stop comes after the next one, so the second
    # and the third leg begin with a ragged batch, of which not every process has a piece.
    [whole] = chain(tmp_path / "whole", (1, -1))
    legs = (4, 1), (2, 4), (1, 7), (4, -1)
    for outcome in chain(tmp_path / "legs", *legs):
        assert differences(whole, outcome) == []


def test_another_number_of_shards_is_refused(tmp_path):
    def again(**options):
        trained(checkpoint=tmp_path, resume=True, **options)

    again(shards=4)
    for options in ({"shards": 8}, {}):
        with pytest.raises(PlainfitError, match="shards was 4, is "):
            again(**options)


# Validation

METRICS = (
    *("accuracy", "balanced_accuracy", "f1", "iou", "dice", "precision", "recall", "roc_auc"),
    *("top5_accuracy", "perplexity"),
)


def spread(out, yb):
    return out.std() + yb.double().var(correction=0)


def validated(sizes):
    """Return the results of a validation of sets of these sizes."""
    import torchmetrics

    shared = SimpleNamespace(has_parts=False, processes=join())
    context = SimpleNamespace(
        sharding=shared, valid_program=None, stop="", history=SimpleNamespace(run=None)
    )
    torch.manual_seed(0)
    model, found = nn.Linear(4, 6), []
    x, y = torch.randn(300, 4), torch.randint(6, (300,))
    y[::7] = -100
    options = {"task": "multiclass", "num_classes": 6, "ignore_index": -100}
    counts = [torchmetrics.ConfusionMatrix(**options)]  # torchmetrics adds those of all processes
    for n in sizes:
        dl = pf.get_data((x, y), (x[:n], y[:n]), 16)[1]
        stock = DataLoader(TensorDataset(x[:n], y[:n].clamp(min=0)), 9)
        found.append(validate(model, F.cross_entropy, dl, metrics=counts, context=context))
        found.append(
            validate(model, F.cross_entropy, stock, metrics=[*METRICS, spread], context=context)
        )
        numbers = pf.get_data((x, x), (x[:n], x[:n]), 16)[1]
        names = ["mae", "mse", "rmse", *(["r2"] if n > 1 else [])]
        found.append(validate(nn.Identity(), F.mse_loss, numbers, metrics=names, context=context))
    return found


def check_validations(sizes, seconds=60.0):
    [alone], *others = (on_processes(n, lambda: validated(sizes), seconds) for n in (1, 2, 3))
    for each in itertools.chain(*others):
        assert repr(each) == repr(alone)  # where NaN is NaN


@pytest.mark.filterwarnings("ignore")  # of metrics without a sample of some class
def test_validation_is_the_same_on_1_2_and_3_processes():
    check_validations([1, 2, 18, 37, 64])


@pytest.mark.soak
@pytest.mark.filterwarnings("ignore")
def test_validation_of_all_sizes_is_the_same_on_1_2_and_3_processes():
    check_validations(range(1, 301), 3600.0)


# The mathematics: in float64, pieces give what the whole batch does, up to rounding.


class Scaled(nn.Module):
    """A loss with a parameter and a buffer."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(CLASSES, dtype=torch.float64))
        self.register_buffer("calls", torch.zeros((), dtype=torch.float64))

    def forward(self, out, yb):
        self.calls += 1
        return ((out * self.scale).square().sum(1) * (yb + 1)).mean()


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.out = nn.Linear(64, 8), nn.Linear(8, 64), nn.Linear(64, CLASSES)
        self.b.weight = nn.Parameter(self.a.weight.detach().t().clone())
        self.again = nn.Linear(64, 8)
        self.again.weight = self.a.weight
        self.unused = nn.Linear(2, 2)

    def forward(self, xb):
        xb = self.b(torch.tanh(self.a(xb.flatten(1))))
        return self.out(self.b(self.again(xb)))


class Penalty(Callback):
    """What a user adds to a loss."""

    def on_loss(self, context):
        norms = [parameter.square().sum() for parameter in context.model.parameters()]
        context.loss = context.loss + 0.01 * sum(norms)


WEIGHT = torch.tensor([0.2, 1.0, 3.0, 0.0, 1.5], dtype=torch.float64)


def labels_of_first(n, label):
    """Return the labels, of which the first ones are another, in the order of the data."""
    y = images()[1].clamp(min=1)
    y[:n] = label
    return {"y": y, "shuffle": False}


def one_hot(function):
    return lambda out, yb: function(out, F.one_hot(yb, CLASSES).double())


def weighted_nll(out, yb):
    return F.nll_loss(out.log_softmax(1), yb, weight=WEIGHT + 0.1)


def sum_with_values(out, yb):
    return F.cross_entropy(out, yb, reduction="sum"), {"size": out.abs().mean()}


def other_metric(out, yb):
    return F.cross_entropy(out, yb)


SOME = {
    "weights, smoothing, ignored": {
        "loss": nn.CrossEntropyLoss(WEIGHT + 0.1, label_smoothing=0.1, ignore_index=1)
    },
    "a piece is ignored": labels_of_first(4, -100),
    "a batch is ignored": {**labels_of_first(18, -100), "opt": optim.AdamW},
    "a piece has no weight": {**labels_of_first(4, 3), "loss": nn.CrossEntropyLoss(WEIGHT)},
    "a sum": {"loss": nn.CrossEntropyLoss(reduction="sum"), "lr": 0.01},
    "a sum with values": {"loss": sum_with_values, "lr": 0.01},
    "a metric that is a loss": {
        "loss": nn.CrossEntropyLoss(WEIGHT), "train_metrics": ["accuracy", other_metric],
    },
    "values": {"loss": lambda out, yb: {"a": F.cross_entropy(out, yb), "b": out.abs().mean()}},
    "lbfgs": {"opt": lambda p, lr: optim.LBFGS(p, lr=lr, max_iter=2)},
    "a penalty, accumulated, clipped": {
        "loss": weighted_nll,
        "callbacks": lambda: [Penalty(), GradientAccumulation(2), GradientClipping(0.1)],
    },
    "a loss with parameters": {"loss": Scaled},
    "tied and unused": {"model": Tied, "opt": optim.AdamW},
    "unfrozen": {"callbacks": lambda: [Unfreezing([["1"], ["3"]])], "opt": optim.AdamW},
    "steps": {"steps_per_epoch": 2, "max_steps": 5, "epochs": 9},
}  # fmt: skip
MORE = {
    "probabilities": {"loss": one_hot(nn.CrossEntropyLoss(WEIGHT))},
    "numbers": {"loss": one_hot(F.mse_loss)},
    "its sum, divided": {"loss": one_hot(lambda o, t: F.l1_loss(o, t, reduction="sum") / len(o))},
    "labels by weight": {"loss": one_hot(nn.BCEWithLogitsLoss(WEIGHT, pos_weight=WEIGHT + 1))},
    "batchmean": {
        "loss": one_hot(lambda o, t: F.kl_div(o.log_softmax(1), t, reduction="batchmean"))
    },
    "poisson": {"loss": one_hot(nn.PoissonNLLLoss())},
    "gauss": {"loss": one_hot(lambda o, t: F.gaussian_nll_loss(o, t, o.exp()))},
    "huber": {"loss": one_hot(nn.HuberLoss())},
    "several labels": {"loss": one_hot(nn.MultiLabelSoftMarginLoss())},
    "margin": {"loss": nn.MultiMarginLoss()},
    "cosine": {"loss": one_hot(lambda o, t: F.cosine_embedding_loss(o, t, t.sum(1)))},
    "triplet": {"loss": one_hot(lambda o, t: F.triplet_margin_loss(o, t, 1 - t))},
    "line search": {
        "opt": lambda p, lr: optim.LBFGS(p, lr=lr, max_iter=3, line_search_fn="strong_wolfe")
    },
    "averaged": {"callbacks": lambda: [Averaging(0.9)]},
}


def in_float64(shards, *, y=None, model=None, loss=F.cross_entropy, opt=None, lr=0.05, **options):
    torch.manual_seed(0)
    layers = (nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, CLASSES))
    net = (nn.Sequential(nn.Flatten(), *layers) if model is None else model()).double()
    loss = loss() if isinstance(loss, type) else loss
    modules = [part for part in (net, loss) if isinstance(part, nn.Module)]
    trained = [parameter for module in modules for parameter in module.parameters()]
    optimizer = optim.SGD(trained, lr=lr, momentum=0.9) if opt is None else opt(trained, lr=lr)
    x, labels = images(dtype=torch.float64)
    data = TensorDataset(x, labels if y is None else y)
    train_dl, _ = pf.get_data(data, None, BS, seed=3, shuffle=options.pop("shuffle", True))
    callbacks = options.pop("callbacks", list)()
    history = pf.fit(
        options.pop("epochs", 2), net, loss, optimizer, train_dl, callbacks=callbacks,
        echo=None, shards=shards, **options,
    )  # fmt: skip
    rows = [[v for k, v in row.items() if k.startswith("train_")] for row in history.epochs]
    numbers = [torch.tensor(history.step_losses), torch.tensor(rows)]
    moments = [v for each in optimizer.state.values() for v in each.values() if torch.is_tensor(v)]
    return [*numbers, *(v for module in modules for v in module.state_dict().values()), *moments]


def check_pieces(name, shards):
    whole, pieces = (in_float64(n, **SOME.get(name) or MORE[name]) for n in (None, shards))
    options = {"rtol": 1e-12, "atol": 1e-12, "equal_nan": True}
    for a, b in zip(whole, pieces, strict=True):
        torch.testing.assert_close(b.double(), a.double(), **options)


@pytest.mark.parametrize("name", SOME)
def test_pieces_give_what_the_whole_batch_does(name):
    check_pieces(name, 5)


@pytest.mark.soak
@pytest.mark.parametrize("shards", [2, 5, 8])
@pytest.mark.parametrize("name", [*SOME, *MORE])
def test_all_losses_in_pieces_are_those_of_the_whole_batch(name, shards):
    check_pieces(name, shards)


def masked(out, yb):
    known = (yb != 1).double()
    return (F.cross_entropy(out, yb, reduction="none") * known).sum() / known.sum().clamp(min=1)


@pytest.mark.parametrize(
    ("loss", "is_sum"),
    [
        (squares, True),
        (half_of_sum, True),
        (lambda out, yb: squares(out, yb) / BS, True),
        (F.cross_entropy, False),
        (masked, False),
        (lambda out, yb: -F.cross_entropy(out, yb), False),
        (lambda out, yb: (out @ out.T).mean(), False),
        (lambda out, yb: squares(out, yb) * 0, False),
        (lambda out, yb: squares(out, yb) * math.inf, False),
    ],
)
def test_a_loss_that_adds_up_is_noticed(loss, is_sum):
    g = torch.Generator().manual_seed(0)
    y = torch.tensor([0, 2, 3] * 3 + [1] * 9)  # of which half are not counted by `masked`
    assert adds_up(loss, torch.rand(18, CLASSES, generator=g), y) == is_sum


# The parts


def test_a_batch_is_cut_as_tensor_split_does():
    for size, count in itertools.product(range(2, 40), (1, 2, 3, 8)):
        pieces = Shards(count).split({"x": torch.arange(size), "one": 1}, size)
        rows = torch.arange(size).tensor_split(min(count, size // 2))
        assert [piece["x"].tolist() for piece in pieces.values()] == [r.tolist() for r in rows]
        assert all(piece["one"] == 1 for piece in pieces.values())


def test_each_piece_belongs_to_one_process():
    for count, world in itertools.product(range(1, 20), range(1, 20)):
        if count >= world:
            mine = [Shards(count, rank, world).mine for rank in range(world)]
            assert [number for part in mine for number in part] == [*range(count)]
            assert all(mine)


def test_sums_cover_the_pieces_of_a_process():
    for first, last in itertools.combinations(range(17), 2):
        nodes = nodes_of(range(first, last))
        covered = [p for level, n in nodes for p in range(n << level, (n + 1) << level)]
        assert covered == [*range(first, last)]


def test_parts_keep_their_kind():
    batch = {"a": ([1, 2, 3], "text"), "b": (torch.arange(3), torch.tensor(7))}
    found = cut(batch, slice(1, 3))
    assert found["a"] == ([2, 3], "text")
    assert found["b"][0].tolist() == [1, 2]
    assert found["b"][1] == 7


def test_a_loader_serves_whole_batches_outside_of_the_training():
    seen = []

    class Reads(Callback):
        def on_step_end(self, context):
            seen.append(next(iter(train_dl)))

    train_dl, _ = in_memory()
    trained(dls=lambda: train_dl, shards=4, callbacks=[Reads()])
    assert len(seen) == 3
    assert not any(isinstance(batch, Pieces) for batch in [*seen, *train_dl])

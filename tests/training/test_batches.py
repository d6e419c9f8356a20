"""What a batch is: inputs and target, how the model is called with them, how many samples."""

from collections import UserDict, namedtuple
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn, optim
from torch.nn.utils.rnn import PackedSequence, pack_sequence
from torch.utils.data import DataLoader, TensorDataset

import plainfit as pf
from plainfit.common.errors import ConfigError
from plainfit.data.batches import (
    batch_size,
    call_form,
    inputs_and_target,
    pairs,
    to_device,
)

CPU = torch.device("cpu")
X, Y = torch.zeros(7, 2), torch.zeros(7)
Named = namedtuple("Named", "xb yb")
SEQUENCES = pack_sequence([torch.ones(3), torch.ones(1)])


def first(dl, **options):
    return next(pairs(dl, CPU, **options))


# inputs and target


def test_the_last_part_of_a_tuple_is_the_target():
    assert inputs_and_target((X, Y)) == (X, Y)
    assert inputs_and_target(Named(X, Y)) == (X, Y)
    (a, b), y = inputs_and_target((X, 3, Y))
    assert (a is X, b, y is Y) == (True, 3, True)
    xb, yb = inputs_and_target((X,))
    assert xb is yb is X


@pytest.mark.parametrize(
    "batch",
    [
        X,
        [X, Y],
        ["a", "b"],
        ("a", "b"),
        [{"x": X}, {"x": X}],
        {"x": X, "y": Y},
        (),
        SEQUENCES,
        "ab",
    ],
    ids=str,
)
def test_anything_else_is_its_own_target(batch):
    xb, yb = inputs_and_target(batch)
    assert xb is batch
    assert yb is batch


def test_the_pair_of_a_dataloader_is_a_pair_whatever_its_length():
    dataset = TensorDataset(X, X, Y)
    (a, b), y = first(DataLoader(dataset, 2))
    assert [len(each) for each in (a, b, y)] == [2, 2, 2]
    samples = [((torch.ones(2), "text"), {"y": [1, 2]}) for _ in range(2)]
    (a, texts), target = first(DataLoader(samples, 2))
    assert (a.shape, texts) == ((2, 2), ("text", "text"))
    assert [part.tolist() for part in target["y"]] == [[1, 1], [2, 2]]
    assert isinstance(target["y"], tuple)
    assert first(DataLoader(dataset, batch_size=None))[1].dim() == 0


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_list_from_a_collate_function_is_a_list_of_samples_whatever_its_length(count):
    samples = [{"x": torch.ones(i + 1), "y": torch.tensor(1.0)} for i in range(count)]
    for collate in (list, lambda samples: samples):
        xb, yb = first(DataLoader(samples, 3, collate_fn=collate))
        assert xb is yb
        assert [sample["x"].tolist() for sample in xb] == [[1.0] * (i + 1) for i in range(count)]
    assert first(DataLoader(["a", "bb"][:count], 3)) == (["a", "bb"][:count],) * 2


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("label", [1, "cat", {"boxes": torch.zeros(2, 4)}, torch.zeros(5, 5)])
def test_a_collate_function_that_zips_gives_lists_of_samples(label, count):
    samples = [(torch.zeros(3, 4 + i), label) for i in range(count)]
    dl = DataLoader(samples, count, collate_fn=lambda samples: tuple(zip(*samples, strict=True)))
    xb, yb = first(dl)
    assert isinstance(xb, list)
    assert isinstance(yb, list)
    assert batch_size(xb, yb) == len(xb) == len(yb) == count


def test_the_batches_of_a_dataloader_may_be_kept_in_a_list():
    batches = list(DataLoader(TensorDataset(X, X, Y), 4))
    for dl in (
        batches,
        iter(batches),
        lambda: batches,
        pf.WrappedDataLoader(batches, lambda *b: [*b]),
    ):
        (a, b), y = first(dl)
        assert a.size(0) == b.size(0) == y.size(0) == 4
    for samples in (["a", "b"], [{"x": X}, {"x": X}], [torch.ones(3), torch.ones(2)], [X], []):
        xb, yb = first([samples])
        assert xb is yb


@pytest.mark.parametrize("other", [torch.zeros(7, 2), torch.zeros(7, 5)])
def test_a_list_that_may_be_samples_or_a_pair_is_refused(other):
    with pytest.raises(ConfigError, match=r"list of 2 tensors of one length may be samples, or"):
        first([[X, other]])
    xb, yb = first(DataLoader([X, other], 2, collate_fn=list))
    assert xb is yb
    assert [each.shape for each in first(map(tuple, [[X, other]]))] == [X.shape, other.shape]


def test_arrays_become_tensors():
    xb, yb = first([(X.numpy(), {"y": Y.numpy(), "names": ["a"] * 7})])
    assert torch.equal(xb, X)
    assert torch.equal(yb["y"], Y)


def test_lists_of_inputs_and_target_are_said_to_be_lists_of_samples():
    model = nn.Linear(2, 1)
    opt = optim.SGD(model.parameters(), lr=0.1)
    batches = [[torch.zeros(5, 7, 2), Y]]  # time first
    with pytest.raises(ConfigError, match=r"list of samples, and failed .*give tuples: map\(tuple"):
        pf.fit(1, model, F.mse_loss, opt, batches, echo=None)
    for batch, what in (((X, X, Y), "tuple"), ({"x": X, "y": Y}, "dict")):
        with pytest.raises(
            ConfigError, match=f"given a {what} of 2 inputs, which its forward does"
        ):
            pf.fit(1, model, F.mse_loss, opt, [batch], echo=None)

    class Broken(nn.Module):
        def forward(self, xb):
            return xb.missing

    with pytest.raises(AttributeError, match="missing"):
        pf.validate(Broken(), F.mse_loss, [X])


def test_several_inputs_and_several_targets():
    (a, b), (c, d) = inputs_and_target(((X, X), (Y, Y)))
    assert all(each.size(0) == 7 for each in (a, b, c, d))


def test_a_mapping_has_its_target_under_a_key():
    for batch in ({"x": X, "y": Y}, UserDict(x=X, y=Y)):
        xb, yb = first([batch], target="y")
        assert list(xb) == ["x"]
        assert yb is Y
    with pytest.raises(ConfigError, match=r"target must be a key .* of x, y; did you mean 'y'\?"):
        first([{"x": X, "y": Y}], target="yy")
    with pytest.raises(ConfigError, match="got 'y' for a tuple"):
        first([(X, Y)], target="y")


def test_to_device_keeps_the_shape_of_a_batch():
    x = torch.zeros(2)
    moved = to_device({"a": [x, (x, "text")], "b": Named(x, 3)}, torch.device("meta"))
    assert moved["a"][0].device.type == moved["a"][1][0].device.type == "meta"
    assert (moved["a"][1][1], moved["b"].yb) == ("text", 3)
    assert type(moved["b"]) is Named
    assert moved["b"].xb.is_meta


# how many samples


def test_the_targets_say_how_many_samples_there_are():
    for xb in (
        X, (3, X), {"a": 1, "b": X}, {"a": {"b": ()}, "c": (X,)}, ["text"] * 7, {"t": ["text"] * 7},
        torch.zeros(40, 7, 2), (torch.zeros(31), torch.zeros(7)), [torch.zeros(3, 5)] * 7,
    ):  # fmt: skip
        for yb in (Y, {"a": Y, "b": X}, (Y, Y), [{"boxes": torch.zeros(2, 4)}] * 7):
            assert batch_size(xb, yb) == 7, (xb, yb)


def test_inputs_say_it_where_the_targets_do_not():
    assert batch_size(X, torch.tensor(1.0)) == 7
    assert batch_size({"a": X, "b": Y}, None) == 7
    assert batch_size(SEQUENCES, SEQUENCES) == 2
    assert batch_size(["a", "b"], ["a", "b"]) == 2


class Opaque:
    """A batch of another library, without a length."""


@pytest.mark.parametrize(
    ("xb", "yb", "lengths"),
    [
        (Opaque(), Opaque(), "inputs of lengths none and targets of lengths none"),
        ({"a": X, "b": torch.zeros(3)}, None, "inputs of lengths 3, 7 and targets of lengths none"),
        (torch.zeros(5), {"a": X, "b": torch.zeros(3)}, "lengths 5 and targets of lengths 3, 7"),
    ],
)
def test_what_cannot_be_counted_is_refused_before_a_step(xb, yb, lengths):
    with pytest.raises(ConfigError, match=f"{lengths}; pass batch_size="):
        batch_size(xb, yb)
    model = nn.Linear(1, 1)
    opt = optim.SGD(model.parameters(), lr=0.1)
    weight = model.weight.clone()
    with pytest.raises(ConfigError, match="pass batch_size="):
        pf.fit(1, model, lambda out, yb: out, opt, [(xb, yb)], echo=None)
    assert torch.equal(model.weight, weight)


def test_a_function_says_how_many_samples_there_are():
    class Scale(nn.Linear):
        def forward(self, xb):
            return super().forward(torch.ones(2, 1))

    def loss_func(out, yb):
        return (out * yb[0]).mean()

    model = Scale(1, 1)
    weight, bias = model.weight.item(), model.bias.item()
    dl = [(Opaque(), [1.0, 10]), (Opaque(), [4.0, 30])]
    options = {"batch_size": lambda xb, yb: yb[1], "echo": None}
    opt = optim.SGD(model.parameters(), lr=0.0)
    history = pf.fit(1, model, loss_func, opt, dl, dl, **options)
    wanted = (weight + bias) * (1.0 * 10 + 4.0 * 30) / 40
    assert history[0]["train_loss"] == pytest.approx(wanted, rel=1e-6)
    assert history[0]["valid_loss"] == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("kind", ["time first", "bags", "packed"])
def test_accumulated_gradients_are_those_of_the_mean_over_the_samples(kind):
    """Of batches whose inputs have lengths of their own, as a hand loop weighs them."""
    g = torch.Generator().manual_seed(0)
    lengths = [[2, 3], [7, 1, 2, 5]]
    texts = [[torch.randint(20, (n,), generator=g) for n in each] for each in lengths]
    labels = [torch.randint(3, (len(each),), generator=g) for each in lengths]

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.bag, self.out = nn.EmbeddingBag(20, 4), nn.Linear(4, 3)
            self.rnn = nn.RNN(4, 4)

        def forward(self, tokens, offsets=None):
            if kind == "bags":
                return self.out(self.bag(tokens, offsets))
            if kind == "time first":
                return self.out(F.embedding(tokens, self.bag.weight).mean(0))
            embedded = tokens._replace(data=F.embedding(tokens.data, self.bag.weight))
            return self.out(self.rnn(embedded)[1][0])

    def inputs(texts):
        if kind == "bags":
            return torch.cat(texts), torch.tensor([0, *map(len, texts[:-1])]).cumsum(0)
        if kind == "packed":
            return pack_sequence(texts, enforce_sorted=False)
        return nn.utils.rnn.pad_sequence(texts)

    torch.manual_seed(0)
    model = Net()
    dl = [(inputs(part), yb) for part, yb in zip(texts, labels, strict=True)]
    outs = [model(*xb) if kind == "bags" else model(xb) for xb, _ in dl]
    F.cross_entropy(torch.cat(outs), torch.cat(labels)).backward()
    wanted = {n: p.detach() - p.grad for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    accumulation = pf.GradientAccumulation(2)
    opt = optim.SGD(model.parameters(), lr=1.0)
    history = pf.fit(1, model, F.cross_entropy, opt, dl, callbacks=[accumulation], echo=None)
    got = {name: parameter.detach() for name, parameter in model.named_parameters()}
    torch.testing.assert_close({name: got[name] for name in wanted}, wanted)
    whole = F.cross_entropy(torch.cat(outs), torch.cat(labels)).item()
    assert history[0]["train_loss"] == pytest.approx(whole, rel=1e-5)


# how the model is called


def calls():
    class One(nn.Module):
        def forward(self, xb):
            """Take one argument."""

    class Two(nn.Module):
        def forward(self, a, b, scale=1.0):
            """Take two or three."""

    class Any(nn.Module):
        def forward(self, *xs, **named):
            """Take what is given."""

    replaced = One()
    replaced.forward = lambda a, b: a
    pair, named = (X, X), {"a": X, "b": X}
    return [
        (One(), X, "xb"), (One(), pair, "xb"), (One(), named, "xb"), (One(), {"xb": X}, "**xb"),
        (Two(), pair, "*xb"), (Two(), (X, X, X), "*xb"), (Two(), (X,) * 4, "xb"),
        (Two(), named, "**xb"), (Two(), named | {"c": 1}, "xb"), (Two(), {"a": X}, "xb"),
        (Two(), [X, X], "xb"), (Two(), SEQUENCES, "xb"), (Two(), ("a", "b"), "xb"),
        (Any(), pair, "*xb"), (Any(), named, "**xb"), (Any(), UserDict(named), "**xb"),
        (nn.Sequential(Two()), pair, "xb"), (nn.DataParallel(Two()), pair, "*xb"),
        (replaced, pair, "*xb"), (torch.compile(Two(), backend="eager"), named, "**xb"),
        (nn.Bilinear(2, 2, 1), pair, "*xb"), (nn.LSTM(2, 2), pair, "*xb"),
    ]  # fmt: skip


@pytest.mark.parametrize(("model", "xb", "form"), calls())
def test_a_model_is_called_as_its_forward_takes_the_inputs(model, xb, form):
    assert call_form(model, xb) == form


class Bilinear(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Bilinear(3, 3, 2)

    def forward(self, one, two):
        return self.layer(one, two)


def one_argument(model, batch):
    return model.layer(*(batch.values() if isinstance(batch, dict) else batch))


@pytest.mark.parametrize("kind", ["tuple", "tensors", "mapping", "keyed", "whole", "nested"])
def test_several_inputs_train_as_by_hand(kind):
    torch.manual_seed(0)
    one, two, y = torch.randn(40, 3), torch.randn(40, 3), torch.randint(2, (40,))
    model, by_hand = Bilinear(), Bilinear()
    by_hand.load_state_dict(model.state_dict())
    parts = list(zip(one.split(4), two.split(4), y.split(4), strict=True))
    options = {}
    if kind == "tensors":
        dl = DataLoader(TensorDataset(one, two, y), 4)
    elif kind == "tuple":
        dl = parts
    elif kind == "nested":
        dl = pf.WrappedDataLoader(parts, lambda a, b, y: ((a, b), y))
    elif kind == "whole":
        dl = [((a, b), y) for a, b, y in parts]
        model.forward = partial(one_argument, model)
    else:
        dl = [({"one": a, "two": b}, y) for a, b, y in parts]
        if kind == "keyed":
            dl, options = [{**xb, "label": yb} for xb, yb in dl], {"target": "label"}
    opt, hand_opt = (optim.SGD(m.parameters(), lr=0.1) for m in (model, by_hand))
    wanted = []
    for _ in range(2):
        for a, b, yb in parts:
            loss = F.cross_entropy(by_hand(a, b), yb)
            loss.backward()
            hand_opt.step()
            hand_opt.zero_grad()
            wanted.append(loss.item())
    metrics = [pf.accuracy]
    history = pf.fit(2, model, F.cross_entropy, opt, dl, dl, metrics=metrics, echo=None, **options)
    valid = pf.validate(by_hand, F.cross_entropy, [((a, b), y) for a, b, y in parts])
    assert history.step_losses == wanted
    assert history[-1]["valid_loss"] == valid["loss"]
    assert torch.equal(model.layer.weight, by_hand.layer.weight)
    assert pf.lr_find(model, F.cross_entropy, opt, dl, target=options.get("target")).losses


# losses of the model's own


class Bert(nn.Module):
    """Computes its loss itself if it is given labels, as the models of transformers do."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.layer = kind, nn.Linear(3, 2)

    def forward(self, inputs, labels=None):
        logits = self.layer(inputs)
        loss = None if labels is None else F.cross_entropy(logits, labels)
        if self.kind == "mapping":
            return {"loss": loss, "logits": logits}
        return namedtuple("Output", "loss logits")(loss, logits)


@pytest.mark.parametrize("kind", ["mapping", "attribute"])
def test_a_model_may_compute_its_loss_itself(kind):
    g = torch.Generator().manual_seed(0)
    dl = [
        {"inputs": torch.randn(n, 3, generator=g), "labels": torch.randint(2, (n,), generator=g)}
        for n in (8, 8, 3)
    ]
    torch.manual_seed(0)
    model, by_hand = Bert(kind), nn.Linear(3, 2)
    by_hand.load_state_dict(model.layer.state_dict())
    history = pf.fit(2, model, None, optim.SGD(model.parameters(), 0.1), dl, dl, echo=None)
    same = [(batch["inputs"], batch["labels"]) for batch in dl]
    opt = optim.SGD(by_hand.parameters(), 0.1)
    wanted = pf.fit(2, by_hand, F.cross_entropy, opt, same, same, echo=None)
    assert history.step_losses == wanted.step_losses
    assert [row["valid_loss"] for row in history] == [row["valid_loss"] for row in wanted]
    with pytest.raises(ConfigError, match=r"loss_func may be None where the model's outputs have"):
        pf.validate(by_hand, None, same)


def test_a_packed_sequence_is_one_part():
    assert isinstance(SEQUENCES, PackedSequence)
    assert inputs_and_target((SEQUENCES, Y)) == (SEQUENCES, Y)

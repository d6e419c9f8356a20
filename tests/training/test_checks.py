"""What is refused before a training starts, and what is not."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset

import plainfit as pf
from plainfit.common.errors import CheckpointError, ConfigError, ModelError
from plainfit.data.loaders import WrappedDataLoader
from plainfit.training.callbacks import Checkpointing, OverfitOneBatch, TimeLimit
from small import batches, fit, network, samples, sgd


class Rows(torch.utils.data.Dataset):
    """Samples that are read one by one."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, row):
        return self.x[row] + 0 * torch.rand(()), self.y[row]


class Stream(IterableDataset):
    def __iter__(self):
        yield from zip(*samples(9), strict=True)


# --- the arguments of fit ---

GIVEN = {
    "epochs": 1, "model": None, "loss_func": F.cross_entropy, "opt": None, "train_dl": batches(5),
    "valid_dl": None,
}  # fmt: skip


def call(**changes):
    model = network()
    given = GIVEN | {"model": model, "opt": sgd(model), "echo": None} | changes
    first = [given.pop(name) for name in GIVEN]
    return pf.fit(*first, **given)


def each(out, yb):
    return F.cross_entropy(out, yb, reduction="none")


def nothing(out, yb):
    return None


DATA = TensorDataset(*samples(9))
ORDER = "the order is fit(epochs, model, loss_func, opt, train_dl, valid_dl)"
LOADER = "make one of a dataset: pf.get_data, or DataLoader(dataset, batch_size=64)"
WRONG = [
    ({"epochs": "3"}, f"epochs must be a whole number, 0 or more, got '3'; {ORDER}"),
    ({"epochs": 2.5}, f"epochs must be a whole number, 0 or more, got 2.5; {ORDER}"),
    ({"epochs": True}, f"epochs must be a whole number, 0 or more, got True; {ORDER}"),
    ({"epochs": -1}, f"epochs must be a whole number, 0 or more, got -1; {ORDER}"),
    ({"model": nn.Flatten}, "model must be a torch.nn.Module, got Flatten itself; make an object "
     "of it: Flatten(...)"),
    ({"model": "mlp"}, f"model must be a torch.nn.Module, got 'mlp'; {ORDER}"),
    ({"loss_func": nn.CrossEntropyLoss}, "loss_func must be a function such as F.cross_entropy, "
     "got CrossEntropyLoss itself; make an object of it: CrossEntropyLoss(...)"),
    ({"loss_func": sgd(network()), "opt": F.cross_entropy},
     f"loss_func must be a function such as F.cross_entropy, got an object of SGD; {ORDER}"),
    ({"opt": "adam"}, "opt must be an optimizer, got 'adam'; make one: "
     "optim.Adam(model.parameters(), lr=1e-3)"),
    ({"opt": torch.optim.Adam}, "opt must be an optimizer, got Adam itself; make an object of it: "
     "Adam(...)"),
    ({"opt": [sgd(network())]}, "opt must be an optimizer, got [an object of SGD]; make one: "
     "optim.Adam(model.parameters(), lr=1e-3)"),
    ({"train_dl": DATA}, "train_dl must be an iterable of batches, or a function that returns one, "
     f"got an object of TensorDataset; {LOADER}"),
    ({"train_dl": Rows(*samples(8))}, f"got an object of Rows; {LOADER}"),
    ({"train_dl": "mnist"}, f"got 'mnist'; {LOADER}"),
    ({"valid_dl": Subset(DATA, [0])}, "valid_dl must be an iterable of batches, or a function "
     f"that returns one, got an object of Subset; {LOADER}"),
    ({"metrics": pf.accuracy}, "metrics must be a list of names, functions or metric objects, "
     "got accuracy itself; write metrics=['accuracy']"),
    ({"metrics": "accuracy"}, "got 'accuracy'; write metrics=['accuracy']"),
    ({"metrics": [nn.L1Loss]}, "got [L1Loss itself]; write metrics=['accuracy']"),
    ({"callbacks": TimeLimit(3)}, "callbacks must be a list, got an object of TimeLimit; write "
     "callbacks=[...]"),
    ({"loss_func": each}, "loss_func must return one number as a tensor, the mean over the batch, "
     "got shape (5,); pass reduction='mean', or take its mean()"),
    ({"loss_func": lambda out, yb: 0.5}, "got a number of Python; return the tensor"),
    ({"valid_dl": {"a": batches(5), "b": DATA}}, f"got an object of dict; {LOADER}"),
    ({"callbacks": [Checkpointing("unused")]}, "Checkpointing must be passed as checkpoint, and is "
     "in callbacks"),
    ({"precision": 16}, "unknown precision 16: choose from fp32, bf16, fp16; did you mean 'fp16'?"),
    ({"valid_dl": batches(5), "metrics": [nothing]}, "the metric 'nothing' must return numbers, "
     "and failed with TypeError: float() argument must be a string or a real number, not "
     "'NoneType'"),
    ({"max_steps": True}, "max_steps must be a whole number, 1 or more, got True"),
    ({"resume": True}, "resume continues from the newest checkpoint in the folder checkpoint, got "
     "none; pass checkpoint=FOLDER"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "line"), WRONG)
def test_wrong_arguments_of_fit_are_named(changes, line):
    with pytest.raises(ConfigError) as caught:
        call(**changes)
    assert str(caught.value).endswith(line)
    assert "\n" not in line


@pytest.mark.parametrize("limits", [{"high": float("inf")}, {"low": float("nan")}, {"low": -1.0}])
def test_a_search_has_finite_rates(limits):
    model = network()
    with pytest.raises(ConfigError, match="lr_find needs 0 < low < high, both finite"):
        pf.lr_find(model, F.cross_entropy, sgd(model), batches(5), **limits)


def test_a_model_without_values_is_refused():
    model = nn.Linear(4, 3, device="meta")
    with pytest.raises(ModelError, match=r"is on the device meta; .*model\.to_empty"):
        call(model=model, opt=sgd(model))


def test_a_model_that_is_frozen_says_what_to_do():
    model = network().requires_grad_(False)
    with pytest.raises(RuntimeError, match="does not require grad") as caught:
        call(model=model, opt=sgd(model))
    assert caught.value.__notes__[-1].startswith(
        "the loss must depend on a parameter with requires"
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"epochs": np.int64(1)},
        {"callbacks": (), "metrics": ()},
        {"epochs": None, "max_steps": 1},
        {"valid_dl": batches(5), "metrics": ["accuracy", "f1"], "train_metrics": []},
        {"valid_dl": {"a": batches(5), "b": batches(5)}},
        {"train_dl": lambda: iter(batches(5))},
        {"train_dl": DataLoader(Stream(), 3)},
        {"opt": torch.optim.LBFGS, "loss_func": nn.CrossEntropyLoss()},
    ],
    ids=[
        "count of NumPy",
        "tuples",
        "no epochs",
        "names",
        "two sets",
        "function",
        "stream",
        "LBFGS",
    ],
)
def test_what_is_usual_is_accepted(changes):
    if isinstance(make := changes.get("opt"), type):
        model = network()
        changes = changes | {"model": model, "opt": make(model.parameters())}
    assert len(call(**changes)) == 1


@pytest.mark.filterwarnings("error")
def test_whole_numbers_of_numpy_are_kept_in_checkpoints(tmp_path):
    two = np.int64(2)
    data = {"train_dl": pf.get_data(DATA, DATA, two, seed=two)[0], "steps_per_epoch": two}
    whole = call(**data, epochs=two).step_losses
    call(**data, epochs=1, checkpoint=tmp_path)
    resumed = call(**data, epochs=two, checkpoint=tmp_path, resume=True).step_losses
    assert resumed == whole
    assert len(resumed) == 4


# --- state that no checkpoint can hold ---


class Keeps(pf.Callback):
    saved = ("seen",)

    def __init__(self, seen):
        self.seen = seen


@pytest.mark.parametrize(
    ("seen", "what"),
    [
        ({3}, "Keeps/seen is a set"),
        ({"a": [np.zeros(2)]}, "Keeps/seen/a/0 is a ndarray"),
        (np.float32(1), "Keeps/seen is a float32"),
        ({frozenset(): 1}, "Keeps/seen is a frozenset"),
        (object(), "Keeps/seen is a object"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_state_that_cannot_be_kept_is_refused_at_the_start(seen, what, tmp_path):
    callback = Keeps(seen)
    with pytest.raises(CheckpointError, match=f"lists and dicts, and {what}; leave it out of"):
        call(callbacks=[callback], checkpoint=tmp_path)
    assert len(call(callbacks=[callback])) == 1  # without checkpoints it may be anything
    callback.seen = {"a": [torch.zeros(2), (1, "b", None)], 2: True}
    assert len(call(callbacks=[callback], checkpoint=tmp_path)) == 1


# --- a last batch of one sample ---


def normed(norm, *before):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), *before, norm, nn.Flatten(), nn.LazyLinear(3)).double()


def built(norm, *before):
    model = normed(norm, *before)
    model.eval()(torch.zeros(2, 4, dtype=torch.float64))
    return model


ONE_VALUE = {
    "batch norm": lambda: built(nn.BatchNorm1d(8)),
    "1x1 maps": lambda: built(nn.BatchNorm2d(8), nn.Unflatten(1, (8, 1, 1))),
    "group norm": lambda: built(nn.GroupNorm(8, 8)),
}
SEVERAL_VALUES = {
    "maps": lambda: built(nn.BatchNorm2d(2), nn.Unflatten(1, (2, 2, 2))),
    "large groups": lambda: built(nn.GroupNorm(2, 8)),
    "layer norm": lambda: built(nn.LayerNorm(8)),
}


def ours(n, **options):
    data = TensorDataset(*samples(n))
    return pf.get_data(data, data, 4, **options)[0]


LOADERS = {
    "tensors": ours,
    "rows": lambda n, **options: pf.get_data(Rows(*samples(n)), Rows(*samples(n)), 4, **options)[0],
    "wrapped": lambda n, **options: WrappedDataLoader(ours(n, **options), lambda xb, yb: (xb, yb)),
    "stock": lambda n, **options: DataLoader(
        Rows(*samples(n)), 4, shuffle=True, num_workers=2, persistent_workers=True, **options
    ),
}


@pytest.mark.parametrize("kind", LOADERS)
def test_a_last_batch_of_one_is_refused_before_anything_is_trained(kind):
    model = ONE_VALUE["batch norm"]()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    with pytest.raises(ConfigError, match=r"got 9 = 2 \* 4 \+ 1 samples; set drop_last, or"):
        fit(model, sgd(model), LOADERS[kind](9))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    if kind != "stock":  # whose workers take time to start
        fit(model, sgd(model), LOADERS[kind](9, drop_last=True), epochs=1)
        fit(model, sgd(model), LOADERS[kind](10), epochs=1)
        fit(model, sgd(model), LOADERS[kind](9), epochs=1, callbacks=[OverfitOneBatch()])
        fit(model, sgd(model), LOADERS[kind](9), max_steps=2)


def test_batches_of_one_are_refused_whatever_is_dropped():
    model = ONE_VALUE["batch norm"]()
    with pytest.raises(ConfigError, match=r"got 9 = 8 \* 1 \+ 1 samples; .* another batch_size"):
        fit(model, sgd(model), pf.get_data(DATA, DATA, 1, drop_last=True)[0])


@pytest.mark.parametrize("kind", ONE_VALUE)
def test_norms_of_one_value_are_refused_where_torch_fails(kind):
    model = ONE_VALUE[kind]()
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        model.train()(samples(1)[0])
    with pytest.raises(ConfigError, match="set drop_last"):
        fit(model, sgd(model), ours(9))
    with pytest.raises(ConfigError, match="set drop_last"):
        pf.lr_find(model, F.cross_entropy, sgd(model), ours(9))


@pytest.mark.parametrize("kind", SEVERAL_VALUES)
def test_norms_of_several_values_train_on_one_sample(kind):
    ours_, theirs = SEVERAL_VALUES[kind](), SEVERAL_VALUES[kind]()
    found = fit(ours_, sgd(ours_), ours(9), epochs=1).step_losses
    opt, expected = sgd(theirs), []
    for xb, yb in ours(9):
        loss = F.cross_entropy(theirs.train()(xb), yb)
        loss.backward()
        opt.step()
        opt.zero_grad()
        expected.append(loss.item())
    assert found == expected


def test_a_stream_is_not_read_before():
    model = ONE_VALUE["batch norm"]()
    with pytest.raises(ValueError, match="Expected more than 1 value per channel") as caught:
        fit(model, sgd(model), DataLoader(Stream(), 4))
    assert caught.value.__notes__[-1].startswith("leave out batches of one sample, as drop_last")

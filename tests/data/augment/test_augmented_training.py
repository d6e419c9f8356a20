"""Training with augmentation: the same bits by hand, after a resume, and with every loader."""

import pytest
import torch
import torch.nn.functional as F
from pictures import images
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import plainfit as pf
from plainfit.common.errors import ConfigError
from plainfit.common.seeding import stream
from plainfit.data.augment import Pipeline, mixup, warp
from plainfit.data.loaders import AugmentedLoader
from plainfit.training.callbacks import Checkpointing
from small import same
from trainings import StopAt

AUGMENTS = ["warp", "strong", "mixup", "trivial-augment,cutmix,pad-and-crop=1"]


class Drawn(Dataset):
    """Images that are read one by one."""

    def __init__(self, x, y):
        self.x, self.y, self.labels = x, y, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, row):
        return self.x[row], self.y[row]


def train(folder, *callbacks, augment="warp", seed=0, resume=False, kind=TensorDataset, workers=0):
    x, y = images(40, 1, 8, 8), torch.arange(40) % 3
    train_dl, valid_dl = pf.get_data(
        kind(x, y), TensorDataset(x, y), 8, seed=seed, augment=augment, num_workers=workers
    )
    model, opt = pf.get_model("mlp", input_shape=(1, 8, 8), classes=3, device="cpu")
    pf.fit(
        3, model, F.cross_entropy, opt, train_dl, valid_dl, echo=None, resume=resume,
        callbacks=callbacks, checkpoint=Checkpointing(folder), metrics=[pf.accuracy],
    )  # fmt: skip
    return model


@pytest.mark.parametrize(
    ("augment", "steps"),
    [("warp", (1,)), ("warp", (7,)), *[(augment, (5, 12)) for augment in AUGMENTS]],
)
def test_a_resumed_training_sees_the_same_images(tmp_path, augment, steps):
    whole = train(tmp_path / "whole", augment=augment)
    for number, step in enumerate(steps):
        train(tmp_path / "parts", StopAt(step), augment=augment, resume=number > 0)
    assert same(train(tmp_path / "parts", augment=augment, resume=True), whole)
    assert not same(train(tmp_path / "other", augment=augment, seed=1), whole)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.enable_socket
def test_whatever_serves_the_samples(tmp_path, workers):
    whole = train(tmp_path / "whole", augment="strong,mixup")
    train(tmp_path / "parts", StopAt(8), augment="strong,mixup", kind=Drawn, workers=workers)
    resumed = train(
        tmp_path / "parts", augment="strong,mixup", kind=Drawn, workers=workers, resume=True
    )
    assert same(resumed, whole)


@pytest.mark.parametrize("augment", AUGMENTS)
def test_fit_trains_on_what_a_plain_loop_would(tmp_path, augment):
    varied = Pipeline(augment, 3)
    x, y = images(40, 1, 8, 8), torch.arange(40) % 3
    model, opt = pf.get_model("mlp", input_shape=(1, 8, 8), classes=3, device="cpu")
    for epoch in range(3):
        model.train()
        rows = torch.randperm(40, generator=stream(0, "order", epoch)).split(8)
        for step, at in enumerate(rows):
            xb, yb = varied(x[at], y[at], stream(0, "augment", epoch, step))
            F.cross_entropy(model(xb), yb).backward()
            opt.step()
            opt.zero_grad()
    assert same(train(tmp_path, augment=augment), model)


def test_the_loader_gives_augmented_batches_and_validation_is_left_alone():
    x, y = images(40, 1, 8, 8), torch.arange(40) % 3
    plain, valid_dl = pf.get_data(TensorDataset(x, y), TensorDataset(x, y), 8)
    augmented, again = pf.get_data(TensorDataset(x, y), TensorDataset(x, y), 8, augment=warp)
    (xb, yb), (seen, labels) = next(iter(plain)), next(iter(augmented))
    assert torch.equal(seen, warp(xb, stream(0, "augment", 0, 0)))
    assert torch.equal(labels, yb)
    assert all(
        torch.equal(a, b) for a, b in zip(next(iter(valid_dl)), next(iter(again)), strict=True)
    )
    assert len(augmented) == len(plain)
    list(augmented)
    seen, _ = next(iter(augmented))  # of the second epoch
    list(plain)
    assert torch.equal(seen, warp(next(iter(plain))[0], stream(0, "augment", 1, 0)))


class Endless(IterableDataset):
    def __iter__(self):
        yield from zip(images(8, 1, 8, 8), torch.arange(8), strict=True)


def test_what_cannot_be_augmented_is_said():
    x, y = images(8, 1, 8, 8), torch.arange(8) % 3
    rows = TensorDataset(x.flatten(1), y)
    train_dl, _ = pf.get_data(rows, rows, 4, augment="rotate")
    with pytest.raises(
        ConfigError, match=r"requires images .* got samples of shape \(64,\); leave it out"
    ):
        next(iter(train_dl))
    with pytest.raises(ConfigError, match="a DataLoader has none; serve a dataset"):
        AugmentedLoader(DataLoader(rows), "rotate")
    with pytest.raises(ConfigError, match="a DataLoader has none"):
        pf.get_data(Endless(), rows, 4, augment="rotate")
    with pytest.raises(ConfigError, match=r"unknown augmentation 'rotat'.*did you mean 'rotate'"):
        pf.get_data(rows, rows, 4, augment="rotat")


def nll(out, yb):
    return F.nll_loss(out.log_softmax(1), yb)


def squares(out, yb):
    return (out - yb).square().mean()  # takes probabilities, and no labels


@pytest.mark.parametrize("loss", [nll, F.multi_margin_loss, squares])
def test_a_loss_that_cannot_take_mixed_labels_is_refused(loss):
    x, y = images(8, 1, 8, 8), torch.arange(8) % 3
    data = TensorDataset(x, y)
    train_dl, valid_dl = pf.get_data(data, data, 4, augment="mixup")
    wrapped = pf.WrappedDataLoader(train_dl, lambda xb, yb: (xb, yb))
    for dl in (train_dl, wrapped):
        model, opt = pf.get_model("mlp", input_shape=(1, 8, 8), classes=3, device="cpu")
        with pytest.raises(ConfigError, match="the loss must take class probabilities, shape") as e:
            pf.fit(1, model, loss, opt, dl, valid_dl, echo=None)
        assert "\n" not in str(e.value).strip()
    train_dl, _ = pf.get_data(data, data, 4)
    if loss is nll:
        pf.fit(1, model, loss, opt, train_dl, valid_dl, echo=None)


def test_targets_that_are_numbers_are_mixed_as_they_are():
    x, y = images(8, 1, 8, 8), torch.arange(8.0).unsqueeze(1)
    train_dl, _ = pf.get_data(TensorDataset(x, y), TensorDataset(x, y), 4, augment=mixup)
    _, yb = next(iter(train_dl))
    assert yb.shape == (4, 1)

"""Augmentation of batches: against scipy's resampling, and the same bits wherever it goes on."""

import math

import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import map_coordinates
from torch.utils.data import TensorDataset

import plainfit as pf
from plainfit.augment import named_augmentation, warp
from plainfit.callbacks import Augmentation, Checkpointing
from plainfit.errors import ConfigError
from plainfit.seeding import stream
from small import same

STILL = {"degrees": 0.0, "scale": 0.0, "shear": 0.0, "shift": 0.0, "bend": 0.0}


def images(n=6, channels=2, height=12, width=10):
    return torch.rand(n, channels, height, width, generator=stream(0, "images"))


def by_scipy(image, source):
    """Resample each channel at source(x, y), in coordinates from -1 to 1; outside is 0."""
    _, height, width = image.shape
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    at_x, at_y = source((2 * x.double() + 1) / width - 1, (2 * y.double() + 1) / height - 1)
    pixels = [((at_y + 1) * height - 1) / 2, ((at_x + 1) * width - 1) / 2]
    planes = [
        map_coordinates(plane.double().numpy(), [p.numpy() for p in pixels], order=1,
                        mode="grid-constant", cval=0.0)
        for plane in image
    ]  # fmt: skip
    return torch.stack([torch.from_numpy(plane) for plane in planes])


def drawn(n, strength=1.0):
    """The numbers that `warp` draws first, sample by sample."""
    g = stream(1, "here")
    return torch.empty(6, n).uniform_(-strength, strength, generator=g).double().t().tolist()


@pytest.mark.parametrize("what", ["degrees", "scale", "shear", "shift"])
def test_each_part_of_a_warp_is_what_scipy_makes_of_it(what):
    amount = {"degrees": 20.0, "scale": 0.3, "shear": 0.4, "shift": 0.2}[what]
    xb = images()
    out = warp(xb, stream(1, "here"), **STILL | {what: amount})
    for image, got, (turn, wide, high, lean, right, down) in zip(
        xb, out, drawn(len(xb)), strict=True
    ):
        angle = math.radians(turn * amount)
        sources = {
            "degrees": lambda x, y, a=angle: (
                math.cos(a) * x - math.sin(a) * y, math.sin(a) * x + math.cos(a) * y
            ),
            "scale": lambda x, y, w=wide, h=high: (2 ** (w * amount) * x, 2 ** (h * amount) * y),
            "shear": lambda x, y, k=lean: (x + k * amount * y, y),
            "shift": lambda x, y, r=right, d=down: (x + 2 * amount * r, y + 2 * amount * d),
        }  # fmt: skip
        wanted = by_scipy(image, sources[what])
        assert (got - wanted).abs().max() < 2e-5
    assert not torch.allclose(out, xb, atol=0.05)


def test_bending_moves_every_point_by_an_interpolated_field():
    xb, g = images(), stream(1, "here")
    torch.empty(6, len(xb)).uniform_(generator=g)
    coarse = torch.empty(len(xb), 2, 4, 4).normal_(0, 2 * 0.1, generator=g)
    field = F.interpolate(coarse, (12, 10), mode="bicubic").double()
    out = warp(xb, stream(1, "here"), **STILL | {"bend": 0.1})
    for image, got, (right, down) in zip(xb, out, field, strict=True):
        wanted = by_scipy(image, lambda x, y, r=right, d=down: (x + r, y + d))
        assert (got - wanted).abs().max() < 2e-5


def test_without_ranges_or_strength_images_stay_as_they_are():
    xb = images()
    assert torch.allclose(warp(xb, stream(0, "x"), **STILL), xb, atol=1e-5)
    assert torch.allclose(warp(xb, stream(0, "x"), 0.0), xb, atol=1e-5)


def test_a_strength_multiplies_every_range():
    xb = images()
    ranges = {"degrees": 7.5, "scale": 0.1, "shear": 0.1, "shift": 0.035, "bend": 0.0125}
    half = named_augmentation("warp=0.5")(xb, stream(3, "x"))
    assert torch.allclose(half, warp(xb, stream(3, "x"), **ranges), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wrap", "unknown augmentation 'wrap': choose from warp, none; did you mean 'warp'?"),
        ("warp=much", "the strength of warp must be a positive number, got 'much'"),
        ("warp=-1", "the strength of warp must be a positive number, got '-1'"),
        ("warp=inf", "the strength of warp must be a positive number, got 'inf'"),
    ],
)
def test_what_cannot_be_used_is_said(name, message):
    with pytest.raises(ConfigError) as error:
        named_augmentation(name)
    assert str(error.value) == message


class StopAt(pf.Callback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, context):
        if context.global_step == self.step:
            context.stop = "the test"


def train(folder, *callbacks, seed=0, resume=False):
    x, y = images(40, 1, 8, 8), torch.arange(40) % 3
    train_dl, valid_dl = pf.get_data(TensorDataset(x, y), TensorDataset(x, y), 8)
    model, opt = pf.get_model("mlp", input_shape=(1, 8, 8), classes=3, device="cpu")
    pf.fit(
        3, model, F.cross_entropy, opt, train_dl, valid_dl, echo=None, resume=resume,
        callbacks=[*callbacks, Augmentation(warp, seed)], checkpoint=Checkpointing(folder),
    )  # fmt: skip
    return model


def test_a_resumed_training_sees_the_same_images(tmp_path):
    whole = train(tmp_path / "whole")
    train(tmp_path / "parts", StopAt(7))
    assert same(train(tmp_path / "parts", resume=True), whole)
    assert not same(train(tmp_path / "other", seed=1), whole)


def test_fit_trains_on_what_a_plain_loop_would(tmp_path):
    x, y = images(40, 1, 8, 8), torch.arange(40) % 3
    model, opt = pf.get_model("mlp", input_shape=(1, 8, 8), classes=3, device="cpu")
    for epoch in range(3):
        model.train()
        rows = torch.randperm(40, generator=stream(0, "order", epoch)).split(8)
        for step, at in enumerate(rows):
            xb = warp(x[at], stream(0, "augment", epoch, step))
            F.cross_entropy(model(xb), y[at]).backward()
            opt.step()
            opt.zero_grad()
    assert same(train(tmp_path), model)

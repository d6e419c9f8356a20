"""Brightness, contrast, saturation and noise, against Pillow and scipy."""

import pytest
import torch
from pictures import bytes_of, here, images
from PIL import Image, ImageEnhance
from scipy.stats import kstest

from plainfit.data.augment import brightness, contrast, noise, normalise, saturation


def by_pillow(kind, image, factor):
    whole = Image.fromarray(image.permute(1, 2, 0).numpy())
    done = kind(whole).enhance(factor)
    return torch.frombuffer(bytearray(done.tobytes()), dtype=torch.uint8).view(
        *image.shape[1:], 3
    ).permute(2, 0, 1)  # fmt: skip


# Pillow rounds the mean gray, or the gray of a pixel, and cuts the result off: two levels of 255.
@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (brightness, ImageEnhance.Brightness),
        (contrast, ImageEnhance.Contrast),
        (saturation, ImageEnhance.Color),
    ],
)
def test_bytes_are_within_two_levels_of_pillow(function, kind):
    xb = bytes_of(20)
    factors = torch.empty(20).uniform_(0.4, 1.6, generator=here()).tolist()
    out = function(xb, here(), 0.6)
    for image, got, factor in zip(xb, out, factors, strict=True):
        wanted = by_pillow(kind, image, factor)
        assert (got.int() - wanted.int()).abs().max() <= 2
    assert (out.int() - xb.int()).abs().max() > 30


def test_floats_are_not_cut_off():
    assert brightness(images(50), here(), 0.9).max() > 1.5
    assert contrast(images(50), here(), 0.9).min() < -0.1


def test_gray_has_no_saturation():
    xb = images(5, 1)
    assert torch.allclose(saturation(xb, here(), 0.9), xb, atol=1e-6)


def test_noise_is_normal_with_a_deviation_of_each_image():
    xb = images(8, 3, 20, 20).double()
    deviations = torch.empty(8).uniform_(0, 0.2, generator=here())
    added = noise(xb, here(), 0.2) - xb
    for values, deviation in zip(added, deviations, strict=True):
        assert kstest((values.flatten() / deviation).numpy(), "norm").pvalue > 1e-3


def test_normalised_images_have_mean_0_and_deviation_1():
    xb = bytes_of(30, 2)
    mean = (xb / 256).mean((0, 2, 3)).tolist()
    std = (xb / 256).std((0, 2, 3)).tolist()
    out = normalise(xb, mean, std)
    assert out.dtype == torch.float32
    assert out.mean((0, 2, 3)).abs().max() < 1e-5
    assert (out.std((0, 2, 3)) - 1).abs().max() < 1e-5
    wanted = (xb[:, 1] / 256 - mean[0]) / std[0]
    assert torch.allclose(normalise(xb, mean[:1], std[:1])[:, 1], wanted)

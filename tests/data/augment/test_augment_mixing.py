"""Erasing, mixup and cutmix: which pixels come from where, and how much of which label."""

import math

import pytest
import torch
from pictures import bytes_of, here, images
from scipy.stats import beta as beta_distribution

from plainfit.common.errors import ConfigError
from plainfit.data.augment import cutmix, mixup, random_erasing
from plainfit.data.augment.mixing import beta


def rectangle_of(mask):
    """The height and width of the rectangle that a mask is, all of it."""
    rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
    assert mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()
    return rows.max() - rows.min() + 1, columns.max() - columns.min() + 1


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_erased_is_a_rectangle_of_half_of_the_images(dtype):
    xb = bytes_of(600, 2, 30, 40).clamp(1).to(dtype)
    out = random_erasing(xb, here(), 0.25)
    assert out.dtype == dtype
    areas, proportions = [], []
    for image, got in zip(xb, out, strict=True):
        gone = (got == 0).all(0)
        assert torch.equal(got, torch.where(gone, torch.zeros_like(image), image))
        if gone.any():
            high, wide = rectangle_of(gone)
            areas.append(high * wide / 1200)
            proportions.append(high / wide)
    assert abs(len(areas) / 600 - 0.5) < 0.07
    assert 0.015 < min(areas) < 0.05
    assert 0.2 < max(areas) < 0.27
    assert 0.25 < min(proportions) < 0.5
    assert 2 < max(proportions) < 4


@pytest.mark.parametrize("alpha", [0.05, 0.2, 0.5, 1.0, 4.0])
def test_shares_are_from_the_beta_distribution(alpha):
    shares = beta(20_000, alpha, here())
    for bound in (0.001, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.999):
        wanted = beta_distribution(alpha, alpha).cdf(bound)
        deviation = math.sqrt(wanted * (1 - wanted) / 20_000)
        assert abs((shares < bound).double().mean() - wanted) < 4 * deviation


def test_mixup_mixes_pixels_and_labels_alike():
    xb, yb = images(40, 3), torch.arange(40) % 5
    out, targets = mixup(xb, yb, here(), 0.7, 5)
    g = here()
    share, other = beta(40, 0.7, g), torch.randperm(40, generator=g)
    assert targets.shape == (40, 5)
    assert targets.dtype == torch.float32
    for i, (part, j) in enumerate(zip(share.tolist(), other.tolist(), strict=True)):
        assert torch.allclose(out[i], part * xb[i] + (1 - part) * xb[j], atol=1e-6)
        wanted = torch.zeros(5)
        wanted[yb[i]] += part
        wanted[yb[j]] += 1 - part
        assert torch.allclose(targets[i], wanted, atol=1e-6)


def test_cutmix_takes_a_rectangle_and_its_area_of_the_label():
    xb, yb = images(200, 2, 20, 24), torch.arange(200) % 7
    out, targets = cutmix(xb, yb, here(), 1.0, 7)
    g = here()
    beta(200, 1.0, g)
    other = torch.randperm(200, generator=g)
    sides = []
    for i, j in enumerate(other.tolist()):
        pasted = (out[i] != xb[i]).any(0)
        assert torch.equal(out[i], torch.where(pasted, xb[j], xb[i]))
        share = 1.0 - pasted.float().mean().item()
        wanted = torch.zeros(7)
        wanted[yb[i]] += share
        wanted[yb[j]] += 1 - share
        assert torch.allclose(targets[i], wanted, atol=1e-6)
        if pasted.any():
            sides.append(rectangle_of(pasted))
    assert len(sides) > 150
    assert max(high for high, _ in sides) > 14


def test_mixed_twice_and_floats_as_targets():
    xb = images(6)
    _, once = mixup(xb, torch.arange(6) % 3, here(), 1.0, 3)
    _, twice = cutmix(xb, once, here(), 1.0, 3)
    assert torch.allclose(twice.sum(1), torch.ones(6), atol=1e-6)
    values = torch.tensor([1.0, 2, 3, 4, 5, 6])
    _, mixed = mixup(xb, values, here(), 1.0)
    g = here()
    share, other = beta(6, 1.0, g), torch.randperm(6, generator=g)
    assert torch.allclose(mixed, share * values + (1 - share) * values[other])


def test_labels_need_the_number_of_classes():
    with pytest.raises(ConfigError, match=r"requires the number of classes: pass partial\(mixup"):
        mixup(images(6), torch.arange(6), here())


def test_the_loss_of_mixed_labels_is_the_mix_of_losses():
    xb, yb = images(8, 1), torch.arange(8) % 4
    _, targets = mixup(xb, yb, here(), 1.0, 4)
    g = here()
    share, other = beta(8, 1.0, g), torch.randperm(8, generator=g)
    out = torch.randn(8, 4, generator=g)
    losses = [torch.nn.functional.cross_entropy(out, y, reduction="none") for y in (yb, yb[other])]
    wanted = (share * losses[0] + (1 - share) * losses[1]).mean()
    assert math.isclose(torch.nn.functional.cross_entropy(out, targets), wanted, rel_tol=1e-5)

"""TrivialAugment, image by image against Pillow's operations and scipy's resampling."""

import math

import pytest
import torch
from pictures import by_scipy, bytes_of, here
from PIL import Image, ImageEnhance, ImageOps

from plainfit.data.augment import trivial_augment

ENHANCE = {5: "Brightness", 6: "Color", 7: "Contrast", 8: "Sharpness"}


def drawn(n):
    g = here()
    kind = torch.randint(14, (n,), generator=g)
    level = torch.randint(31, (n,), generator=g)
    sign = 2 * torch.randint(2, (n,), generator=g) - 1
    return zip(kind.tolist(), level.tolist(), sign.tolist(), strict=True)


def sources(kind, amount):
    angle = math.radians(135) * amount
    return [
        lambda x, y: (x + 0.99 * amount * y, y),
        lambda x, y: (x, y + 0.99 * amount * x),
        lambda x, y: (x + 32 * amount, y),
        lambda x, y: (x, y + 32 * amount),
        lambda x, y: (
            math.cos(angle) * x - math.sin(angle) * y, math.sin(angle) * x + math.cos(angle) * y
        ),
    ][kind]  # fmt: skip


def by_pillow(image, kind, level, sign):
    whole = Image.fromarray(image.permute(1, 2, 0).numpy())
    if kind in ENHANCE:
        done = getattr(ImageEnhance, ENHANCE[kind])(whole).enhance(1 + 0.99 * sign * level / 30)
    else:
        done = {
            9: lambda: ImageOps.posterize(whole, 8 - round(level / 5)),
            10: lambda: ImageOps.solarize(whole, 255 - 255 * level / 30),
            11: lambda: ImageOps.autocontrast(whole),
            12: lambda: ImageOps.equalize(whole),
            13: lambda: whole,
        }[kind]()
    data = torch.frombuffer(bytearray(done.tobytes()), dtype=torch.uint8)
    return data.view(*image.shape[1:], 3).permute(2, 0, 1)


def test_every_operation_at_every_level():
    n = 1200
    xb = bytes_of(n, 3, 14, 18)
    xb[::3] = xb[::3] // 3 + 40  # something to stretch
    out = trivial_augment(xb, here())
    assert out.dtype == torch.uint8
    seen = set()
    for image, got, (kind, level, sign) in zip(xb, out, drawn(n), strict=True):
        if kind < 5:
            wanted = by_scipy(image, sources(kind, sign * level / 30))
            worst = 0.51  # of rounding
        else:
            wanted = by_pillow(image, kind, level, sign)
            # Pillow cuts off where we round, and rounds the gray that it blends with.
            worst = 2 if kind in ENHANCE or kind == 11 else 0
        assert (got.double() - wanted.double()).abs().max() <= worst, (kind, level, sign)
        seen.add((kind, level))
    assert len(seen) > 0.9 * 14 * 31


def test_floats_are_the_bytes_over_256():
    xb = bytes_of(300, 3, 14, 18)
    out = trivial_augment(xb / 256, here())
    again = (out * 256).round().clamp(0, 255).byte()
    assert torch.equal(again, trivial_augment(xb, here()))


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_any_number_of_channels(channels):
    xb = bytes_of(60, channels)
    assert trivial_augment(xb, here()).shape == xb.shape


def test_at_strength_0_next_to_nothing_happens():
    xb = bytes_of(100)
    out = trivial_augment(xb, here(), 0.0)
    kinds = torch.tensor([kind for kind, _, _ in drawn(100)])
    still = kinds != 10
    still &= (kinds != 11) & (kinds != 12)
    assert (out[still].int() - xb[still].int()).abs().max() <= 1

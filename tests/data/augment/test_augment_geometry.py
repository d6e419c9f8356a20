"""Flips, crops and resampling, against NumPy's slices and scipy's interpolation."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pictures import by_scipy, bytes_of, here, images, uniforms

from plainfit.data.augment import (
    affine,
    elastic,
    horizontal_flip,
    named_steps,
    pad_and_crop,
    perspective,
    vertical_flip,
    warp,
)

CLOSE = 2e-5  # float32 against scipy's float64, on values from 0 to 1
STILL = {"degrees": 0.0, "scale": 0.0, "shear": 0.0, "shift": 0.0, "bend": 0.0}


def turned(angle):
    cos, sin = math.cos(angle), math.sin(angle)
    return lambda x, y: (cos * x - sin * y, sin * x + cos * y)


def agree(out, xb, sources):
    for got, image, source in zip(out, xb, sources, strict=True):
        assert (got - by_scipy(image, source)).abs().max() < CLOSE
    assert not torch.allclose(out, xb, atol=0.05)


@pytest.mark.parametrize("what", ["degrees", "scale", "shear", "translate"])
def test_each_part_of_affine_is_what_scipy_makes_of_it(what):
    amount = {"degrees": 40.0, "scale": 0.3, "shear": 30.0, "translate": 0.3}[what]
    xb = images()
    sources = []
    for turn, size, lean, right, down in uniforms(5, len(xb)):
        factor, slope = 1.3**size, math.tan(math.radians(30) * lean)
        sources.append({
            "degrees": turned(math.radians(turn * amount)),
            "scale": lambda x, y, k=factor: (k * x, k * y),
            "shear": lambda x, y, k=slope: (x + k * y, y),
            "translate": lambda x, y, r=right, d=down: (x + 0.3 * r * 10, y + 0.3 * d * 12),
        }[what])  # fmt: skip
    agree(affine(xb, here(), **{what: amount}), xb, sources)


def test_all_parts_of_affine_are_one_resampling():
    xb = images(3)
    sources = []
    for turn, size, lean, right, down in uniforms(5, len(xb)):
        cos, sin = math.cos(math.radians(20 * turn)), math.sin(math.radians(20 * turn))
        leaning = np.array([[1, math.tan(math.radians(10) * lean)], [0, 1]])
        whole = np.array([[cos, -sin], [sin, cos]]) @ leaning * 1.1**size
        shift = np.array([0.1 * right * 10, 0.1 * down * 12])
        sources.append(
            lambda x, y, m=whole, s=shift: (
                m[0, 0] * x + m[0, 1] * y + s[0], m[1, 0] * x + m[1, 1] * y + s[1]
            )
        )  # fmt: skip
    agree(affine(xb, here(), degrees=20, scale=0.1, shear=10, translate=0.1), xb, sources)


@pytest.mark.parametrize("what", ["degrees", "scale", "shear", "shift"])
def test_each_part_of_a_warp_is_what_scipy_makes_of_it(what):
    amount = {"degrees": 20.0, "scale": 0.3, "shear": 0.4, "shift": 0.2}[what]
    xb = images()
    sources = []
    for turn, wide, high, lean, right, down in uniforms(6, len(xb)):
        across, along = 2 ** (wide * amount), 2 ** (high * amount)
        sources.append({
            "degrees": turned(math.radians(turn * amount)),
            "scale": lambda x, y, w=across, h=along: (w * x, h * y),
            "shear": lambda x, y, k=lean: (x + k * amount * y, y),
            "shift": lambda x, y, r=right, d=down: (x + amount * r * 10, y + amount * d * 12),
        }[what])  # fmt: skip
    agree(warp(xb, here(), **STILL | {what: amount}), xb, sources)


@pytest.mark.parametrize("function", [elastic, warp])
def test_bending_moves_every_point_by_an_interpolated_field(function):
    xb, g = images(), here()
    if function is warp:
        torch.empty(6, len(xb)).uniform_(generator=g)
    coarse = torch.empty(len(xb), 2, 4, 4).normal_(0, 2 * 0.1, generator=g)
    field = F.interpolate(coarse, (12, 10), mode="bicubic").double().numpy()
    out = elastic(xb, here(), 0.1) if function is elastic else warp(
        xb, here(), **STILL | {"bend": 0.1}
    )  # fmt: skip
    sources = [lambda x, y, r=r, d=d: (x + r * 5, y + d * 6) for r, d in field]
    agree(out, xb, sources)


def test_perspective_takes_corners_to_their_ends():
    xb = images()
    ends = torch.empty(len(xb), 4, 2).uniform_(-0.4, 0.4, generator=here()).double().numpy()
    corners = np.array([[-1, -1], [1, -1], [-1, 1], [1, 1]], dtype=float)
    sources = []
    for moved in corners + ends:
        rows = []
        for (x, y), (u, v) in zip(corners, moved, strict=True):
            rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        numbers = np.append(np.linalg.solve(rows, moved.flatten()), 1).reshape(3, 3)

        def source(x, y, numbers=numbers):
            u, v, w = np.einsum("ij,jhw->ihw", numbers, np.stack([x / 5, y / 6, np.ones_like(x)]))
            return u / w * 5, v / w * 6

        sources.append(source)
    agree(perspective(xb, here(), 0.2), xb, sources)


@pytest.mark.parametrize(("function", "axis"), [(horizontal_flip, 2), (vertical_flip, 1)])
@pytest.mark.parametrize("p", [0.3, 1.0])
def test_flips_mirror_their_share(function, axis, p):
    xb = bytes_of(400)
    out = function(xb, here(), p)
    mirrored = [
        np.array_equal(np.flip(image, axis), got)
        for image, got in zip(xb.numpy(), out.numpy(), strict=True)
    ]
    kept = [torch.equal(image, got) for image, got in zip(xb, out, strict=True)]
    assert [not is_kept for is_kept in kept] == mirrored
    assert abs(sum(mirrored) / 400 - p) < 0.08  # more than three standard deviations


def test_crops_are_slices_of_padded_images_and_every_place_occurs():
    xb = bytes_of(500, 3, 12, 10)
    out = pad_and_crop(xb, here(), 2)
    places = set()
    for image, got in zip(xb.numpy(), out.numpy(), strict=True):
        padded = np.pad(image, ((0, 0), (2, 2), (2, 2)))
        found = [
            (y, x) for y in range(5) for x in range(5)
            if np.array_equal(padded[:, y : y + 12, x : x + 10], got)
        ]  # fmt: skip
        assert len(found) == 1
        places |= set(found)
    assert len(places) == 25


def test_without_ranges_or_strength_images_stay_as_they_are():
    xb = images()
    for still in (
        affine(xb, here()), warp(xb, here(), **STILL), warp(xb, here(), 0.0),
        elastic(xb, here(), 0.0), perspective(xb, here(), 0.0),
    ):  # fmt: skip
        assert torch.allclose(still, xb, atol=1e-5)


def test_a_strength_multiplies_every_range():
    xb = images()
    ranges = {"degrees": 7.5, "scale": 0.1, "shear": 0.1, "shift": 0.035, "bend": 0.0125}
    (half,) = named_steps("warp=0.5")
    assert torch.allclose(half(xb, here()), warp(xb, here(), **ranges), atol=1e-6)

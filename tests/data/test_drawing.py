"""Drawings, prepared as the images of a training set were."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw
from sklearn.datasets import load_digits

from plainfit.data.decoding import BadImageError
from plainfit.data.drawing import INKED, SOURCES, is_of_size, prepare_drawing

SEVEN = [(90, 60), (220, 60), (140, 280)]


def png(pixels):
    content = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(content, "PNG")
    return content.getvalue()


def drawing(points=SEVEN, *, side=336, width=24, move=(0, 0), light=True):
    canvas = Image.new("L", (side, side), 0 if light else 230)
    moved = [(x + move[0], y + move[1]) for x, y in points]
    ImageDraw.Draw(canvas).line(moved, fill=255 if light else 20, width=width, joint="curve")
    return np.asarray(canvas)


@pytest.mark.parametrize("source", SOURCES)
def test_place_and_ground_of_a_drawing_do_not_matter(source):
    first = prepare_drawing(png(drawing()), source).astype(int)
    assert first.shape == ((1, 8, 8) if source == "digits" else (1, 28, 28))
    for other in (drawing(move=(40, 30)), drawing(light=False)):
        assert np.abs(prepare_drawing(png(other), source) - first).max() <= 16


def test_mnist_has_its_size_and_centre_of_mass():
    image = prepare_drawing(png(drawing()), "mnist")[0].astype(float)
    rows, columns = np.nonzero(image > 60)
    assert max(np.ptp(rows), np.ptp(columns)) + 1 in (19, 20)
    weights = image / image.sum()
    assert abs(weights.sum(1) @ np.arange(28) - 14) <= 0.5
    assert abs(weights.sum(0) @ np.arange(28) - 14) <= 0.5


def test_fashion_fills_its_field():
    image = prepare_drawing(png(drawing(light=False)), "fashion-mnist")[0]
    rows, columns = np.nonzero(image > 60)
    assert np.ptp(rows) + 1 >= 27
    assert abs(columns.min() - (27 - columns.max())) <= 1


@pytest.mark.parametrize("width", [8, 24, 40])
def test_digits_are_as_tall_and_have_as_much_ink_as_scikit_learns(width):
    image = prepare_drawing(png(drawing(width=width)), "digits")[0]
    counts = np.rint(image / (255 / 16))
    assert abs(counts.sum() - INKED) < 5
    assert abs(load_digits().images.sum((1, 2)).mean() - INKED) < 10
    assert counts[0].any()
    assert counts[7].any()


def test_slanted_digits_are_put_upright():
    upright = [(160, 40), (160, 290)]
    slanted = [(230, 40), (100, 290)]
    first, second = (prepare_drawing(png(drawing(one)), "digits") for one in (upright, slanted))
    assert np.abs(first.astype(int) - second).mean() < 16  # of 255


def test_digits_come_back_from_their_own_pictures():
    alike = []
    for image in load_digits().images[:100]:
        large = Image.fromarray((image * 15.9).astype(np.uint8)).resize((320, 320))
        again = prepare_drawing(png(large), "digits")[0]
        alike.append(np.corrcoef(again.ravel(), image.ravel())[0, 1])
    assert np.mean(alike) > 0.85
    assert min(alike) > 0.6


def test_what_is_no_drawing():
    assert not prepare_drawing(png(np.zeros((50, 40))), "mnist").any()
    assert not prepare_drawing(png(np.full((50, 40), 255)), "digits").any()
    for size in ((1, 1), (1, 500), (500, 1), (2, 2)):
        pixels = np.zeros(size)
        pixels[-1, -1] = 255
        for source in SOURCES:
            prepare_drawing(png(pixels), source)
    for content in (b"", b"no image", png(drawing())[:200]):
        with pytest.raises(BadImageError):
            prepare_drawing(content, "mnist")
    assert is_of_size(png(np.zeros((28, 20))), (1, 28, 20))
    assert not is_of_size(png(np.zeros((28, 20))), (1, 20, 28))

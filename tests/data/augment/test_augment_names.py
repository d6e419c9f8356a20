"""Augmentations by name and range; what every one of them has in common."""

from functools import partial

import pytest
import torch
from pictures import bytes_of, here, images

from plainfit.common.errors import ConfigError
from plainfit.common.seeding import stream
from plainfit.data.augment import Pipeline, affine, mixup, named_steps, warp
from plainfit.data.augment.names import NAMES, SETS, range_of

MIXES = {"mixup", "cutmix"}


def applied(name, xb, generator=None, classes=3):
    yb = torch.arange(len(xb)) % 3
    return Pipeline(name, classes)(xb, yb, generator or here())


@pytest.mark.parametrize("name", [*NAMES, *SETS])
def test_the_generator_decides_everything_and_nothing_else_is_drawn(name):
    xb, before = images(16, 3, 12, 12), torch.get_rng_state()
    once, again = applied(name, xb), applied(name, xb)
    assert all(map(torch.equal, once, again))
    assert torch.equal(xb, images(16, 3, 12, 12))  # the batch itself is left alone
    assert torch.equal(torch.get_rng_state(), before)
    if name != "none":
        assert not torch.equal(applied(name, xb, stream(2, "there"))[0], once[0])
        assert not torch.equal(once[0], xb)


@pytest.mark.parametrize("name", sorted({*NAMES, *SETS} - MIXES))
def test_an_image_does_not_depend_on_the_others(name):
    xb, other = images(16, 3, 12, 12), images(16, 3, 12, 12)
    other[:8] = 0.3
    assert torch.equal(applied(name, xb)[0][8:], applied(name, other)[0][8:])


@pytest.mark.parametrize("name", sorted({*NAMES, *SETS} - {"none"}))
def test_images_that_are_alike_are_augmented_otherwise(name):
    xb = images(1, 3, 12, 12).expand(40, 3, 12, 12).contiguous()
    if name in MIXES:
        return
    assert len({bytes(image.numpy()) for image in applied(name, xb)[0]}) > (
        1 if "flip" in name else 10
    )


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("name", [*NAMES])
def test_bytes_are_floats_times_256_rounded_and_half_precision_is_kept(name, channels):
    xb = bytes_of(16, channels)
    out, _ = applied(name, xb)
    floats, _ = applied(name, xb / 256)
    assert out.dtype == torch.uint8
    assert floats.dtype == torch.float32
    assert torch.equal(out, (floats * 256).round().clamp(0, 255).byte())
    half, _ = applied(name, (xb / 256).bfloat16())
    assert half.dtype == torch.bfloat16
    assert (half.float() - applied(name, (xb / 256).bfloat16().float())[0]).abs().max() < 0.02
    assert applied(name, (xb / 256).double())[0].dtype == torch.float64


@pytest.mark.parametrize("name", ["rotate", "brightness", "noise", "mixup", "trivial-augment"])
def test_whole_numbers_are_no_images(name):
    with pytest.raises(ValueError, match=r"images must be uint8 or floats, got torch\.int64"):
        applied(name, torch.zeros(4, 1, 8, 8, dtype=torch.int64))


@pytest.mark.parametrize("name", NAMES)
def test_the_range_that_a_message_names_is_allowed(name):
    assert range_of(name, f"{NAMES[name].most}") == NAMES[name].most


def test_a_list_is_what_its_names_are_one_after_another():
    steps = named_steps("rotate=10, scale,translate=0.2,horizontal-flip=0.3,shear=5,mixup=1", 7)
    flip, mix = steps[1], steps[3]
    assert steps[0].func is affine
    assert steps[0].keywords == {"degrees": 10.0, "scale": 0.2, "translate": 0.2}
    assert flip.keywords == {"p": 0.3}
    assert steps[2].keywords == {"shear": 5.0}
    assert (mix.func, mix.keywords) == (mixup, {"alpha": 1.0, "classes": 7})
    assert len(steps) == 4
    assert [step.keywords for step in named_steps("rotate=10,rotate=20")] == [
        {"degrees": 10.0}, {"degrees": 20.0},
    ]  # fmt: skip
    assert named_steps("warp,warp=0.5")[0] is warp
    assert len(named_steps("strong,cutmix")) == len(named_steps("strong")) + 1


def test_a_pipeline_of_functions():
    def shift_labels(xb, yb, generator):
        return xb + 1, yb + 1

    xb, yb = images(4), torch.arange(4)
    out, labels = Pipeline([partial(affine, degrees=9.0), shift_labels])(xb, yb, here())
    assert torch.equal(out, affine(xb, here(), degrees=9.0) + 1)
    assert torch.equal(labels, yb + 1)
    assert torch.equal(Pipeline(warp)(xb, yb, here())[0], warp(xb, here()))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wrap", "unknown augmentation 'wrap': choose from none, light, standard, strong, horiz"),
        ("rotat=3", "unknown augmentation 'rotat': choose from none, light, standard, strong, h"),
        ("light,,mixup", "unknown augmentation '': choose from none, light"),
        ("light=2", "light is a set of augmentations without a range, got 'light=2'"),
        ("warp=much", "the range of warp must be a strength, above 0 and at most 1000, got 'much'"),
        ("warp=1e4", "the range of warp must be a strength, above 0 and at most 1000, got '1e4'"),
        ("warp=nan", "the range of warp must be a strength, above 0 and at most 1000, got 'nan'"),
        ("rotate=-1", "the range of rotate must be degrees, above 0 and at most 180, got '-1'"),
        ("rotate=", "the range of rotate must be degrees, above 0 and at most 180, got ''"),
        (
            "pad-and-crop=1.5",
            "the range of pad-and-crop must be a whole number of pixels, above 0 and",
        ),
        (
            "horizontal-flip=2",
            "the range of horizontal-flip must be a probability, above 0 and at most",
        ),
        (
            "perspective=0.5",
            "the range of perspective must be a fraction of the side, above 0 and at",
        ),
        ("mixup=0", "the range of mixup must be the alpha of Beta(alpha, alpha), above 0 and at"),
    ],
)
def test_what_cannot_be_used_is_said(name, message):
    with pytest.raises(ConfigError) as error:
        named_steps(name)
    assert str(error.value).startswith(message)


def test_a_name_close_to_one_is_suggested():
    for wrong, meant in {"rotat": "rotate", "mix-up": "mixup", "stronk": "strong"}.items():
        with pytest.raises(ConfigError, match=f"did you mean '{meant}'"):
            named_steps(wrong)

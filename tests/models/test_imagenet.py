"""The published networks: their parameters by number and by name."""

import pytest
import torch

from plainfit.models import networks as imagenet

# https://docs.pytorch.org/vision/stable/models/resnet.html, num_params on the page of each
PARAMETERS = {18: 11_689_512, 34: 21_797_672, 50: 25_557_032}


@pytest.mark.parametrize("depth", PARAMETERS)
def test_it_has_the_parameters_of_the_published_weights(depth):
    model = getattr(imagenet, f"resnet{depth}")()
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[depth]


def test_the_names_are_torchvisions():
    names = set(imagenet.resnet50(2).state_dict())
    assert {
        "conv1.weight", "bn1.running_var", "layer1.0.downsample.0.weight", "layer4.2.bn3.bias",
        "layer2.0.downsample.1.num_batches_tracked", "fc.bias",
    } <= names  # fmt: skip
    assert len(names) == 320
    assert "layer2.0.downsample.0.weight" in imagenet.resnet18(2).state_dict()
    assert "layer1.0.downsample.0.weight" not in imagenet.resnet18(2).state_dict()


def test_gray_images_are_seen_as_gray_images_in_color():
    model = imagenet.resnet18(3).eval()
    gray = torch.rand(2, 1, 40, 40)
    with torch.no_grad():
        assert torch.equal(model(gray), model(gray.repeat(1, 3, 1, 1)))

"""ResNet-18, 34 and 50 for photographs, with torchvision's parameter names."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plainfit.models.networks import BasicBlock, downsampling

# Of ImageNet's red, green and blue from 0 to 1, as in the training of the published weights:
# https://docs.pytorch.org/vision/stable/models/generated/torchvision.models.resnet18.html
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with batch norm, added to their input (He et al. 2015, fig. 5).

    The stride is the 3x3 convolution's, as in torchvision ("ResNet V1.5").
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        width = outputs // 4
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = downsampling(inputs, outputs, stride)

    def forward(self, xb: Tensor) -> Tensor:
        shortcut = xb if self.downsample is None else self.downsample(xb)
        xb = F.relu(self.bn1(self.conv1(xb)))
        xb = F.relu(self.bn2(self.conv2(xb)))
        return F.relu(self.bn3(self.conv3(xb)) + shortcut)


class ImageNetResNet(nn.Module):
    """The residual networks of He et al. 2015 (arXiv:1512.03385, table 1).

    Images are (batch, 3 or 1, height, width) from 0 to 1. They are normalised here, as the
    published weights expect; a gray one is repeated three times first.

    Args:
        depth: 18, 34 or 50 layers.
        classes: the number of outputs.
    """

    def __init__(self, depth: int = 18, classes: int = 1000) -> None:
        super().__init__()
        self.depth = depth
        kind = Bottleneck if depth == 50 else BasicBlock
        widen = 4 if depth == 50 else 1
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        inputs = 64
        for stage, blocks in enumerate({18: (2, 2, 2, 2)}.get(depth, (3, 4, 6, 3))):
            outputs = widen * 64 * 2**stage
            layers: list[nn.Module] = []
            for block in range(blocks):
                layers.append(kind(inputs, outputs, 2 if stage and not block else 1))
                inputs = outputs
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        self.fc = nn.Linear(inputs, classes)

    def forward(self, xb: Tensor) -> Tensor:
        mean = torch.tensor(MEAN, dtype=xb.dtype, device=xb.device).view(3, 1, 1)
        std = torch.tensor(STD, dtype=xb.dtype, device=xb.device).view(3, 1, 1)
        xb = (xb.expand(-1, 3, -1, -1) - mean) / std
        xb = F.max_pool2d(F.relu(self.bn1(self.conv1(xb))), 3, stride=2, padding=1)
        for stage in range(1, 5):
            xb = self.get_submodule(f"layer{stage}")(xb)
        return self.fc(xb.mean((2, 3)))


def resnet18(classes: int = 1000) -> ImageNetResNet:
    return ImageNetResNet(18, classes)


def resnet34(classes: int = 1000) -> ImageNetResNet:
    return ImageNetResNet(34, classes)


def resnet50(classes: int = 1000) -> ImageNetResNet:
    return ImageNetResNet(50, classes)

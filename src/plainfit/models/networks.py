"""The built-in models: short plain torch, written to be read and copied.

Images are (batch, channels, height, width); a batch of flat vectors is accepted wherever the
tutorial passes one.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Of ImageNet's red, green and blue from 0 to 1, as in the training of the published weights:
# https://docs.pytorch.org/vision/stable/models/generated/torchvision.models.resnet18.html
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Lambda(nn.Module):
    """A layer that calls a function, for use within `nn.Sequential`.

    >>> import torch
    >>> Lambda(lambda xb: xb.flatten(1))(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 64])
    """

    def __init__(self, func: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.func = func

    def forward(self, xb: Tensor) -> Tensor:
        return self.func(xb)


class LogisticRegression(nn.Module):
    """One linear layer: (batch, ...) -> (batch, classes); images are flattened first."""

    def __init__(self, in_features: int = 784, classes: int = 10) -> None:
        super().__init__()
        self.lin = nn.Linear(in_features, classes)

    def forward(self, xb: Tensor) -> Tensor:
        return self.lin(xb.flatten(1))


class MLP(nn.Module):
    """Linear layers with ReLU between them: (batch, ...) -> (batch, classes)."""

    def __init__(
        self,
        in_features: int = 784,
        classes: int = 10,
        hidden: Sequence[int] = (128, 64),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        sizes = [in_features, *hidden]
        self.hidden = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(sizes))
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(sizes[-1], classes)

    def forward(self, xb: Tensor) -> Tensor:
        xb = xb.flatten(1)
        for layer in self.hidden:
            xb = self.dropout(F.relu(layer(xb)))
        return self.out(xb)


class TabularModel(nn.Module):
    """An MLP of numbers and embedded categories: (batch, ...) -> (batch, classes).

    `embeddings` has the number of codes of each feature that holds codes, by its place. The widths
    and initial values of embeddings, and the hidden layers, are those of fastai's `TabularModel`
    (https://docs.fast.ai/tabular.model.html). There is no batch norm, which was no better, and far
    worse on small tables of numbers.
    """

    numbers: Tensor

    def __init__(
        self,
        in_features: int = 784,
        classes: int = 10,
        embeddings: Mapping[str, int] | None = None,
        hidden: Sequence[int] = (200, 100),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        counts = {int(at): count for at, count in (embeddings or {}).items()}
        self.codes = list(counts)
        numbers = [at for at in range(in_features) if at not in counts]
        self.register_buffer("numbers", torch.tensor(numbers, dtype=torch.long), persistent=False)
        widths = [min(600, round(1.6 * count**0.56)) for count in counts.values()]
        self.embeddings = nn.ModuleList(map(nn.Embedding, counts.values(), widths))
        for weight in self.embeddings.parameters():
            nn.init.trunc_normal_(weight, std=0.01)
        self.layers = MLP(len(numbers) + sum(widths), classes, hidden, dropout)

    def forward(self, xb: Tensor) -> Tensor:
        xb = xb.flatten(1)
        codes = zip(self.codes, self.embeddings, strict=True)
        embedded = [embedding(xb[:, at].long()) for at, embedding in codes]
        return self.layers(torch.cat([xb.index_select(1, self.numbers), *embedded], dim=1))


def as_images(xb: Tensor, channels: int) -> Tensor:
    """View flat vectors, as of the tutorial's MNIST, as square images; images pass unchanged."""
    if xb.dim() != 2:
        return xb
    side = math.isqrt(xb.shape[1] // channels)
    if channels * side * side != xb.shape[1]:
        raise ValueError(
            f"a flat image must have channels * side * side values, got {xb.shape[1]} with "
            f"{channels} channels; pass images of shape (batch, channels, height, width)"
        )
    return xb.view(-1, channels, side, side)


class MnistCNN(nn.Module):
    """The tutorial's three stride-2 convolutions, for images of any size.

    The tutorial's listing applies `conv2` twice and `conv3` never; here each is used once.
    Its fixed `avg_pool2d(xb, 4)` is adaptive here, for any height and width.
    """

    def __init__(self, channels: int = 1, classes: int = 10) -> None:
        super().__init__()
        self.channels = channels
        self.conv1 = nn.Conv2d(channels, 16, kernel_size=3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(16, 16, kernel_size=3, stride=2, padding=1)
        self.conv3 = nn.Conv2d(16, classes, kernel_size=3, stride=2, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, xb: Tensor) -> Tensor:
        xb = as_images(xb, self.channels)
        xb = F.relu(self.conv1(xb))
        xb = F.relu(self.conv2(xb))
        xb = F.relu(self.conv3(xb))
        return self.pool(xb).flatten(1)


def downsampling(inputs: int, outputs: int, stride: int) -> nn.Module | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
    )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, added to their input (He et al. 2015, figure 2)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = downsampling(inputs, outputs, stride)

    def forward(self, xb: Tensor) -> Tensor:
        shortcut = xb if self.downsample is None else self.downsample(xb)
        xb = F.relu(self.bn1(self.conv1(xb)))
        return F.relu(self.bn2(self.conv2(xb)) + shortcut)


def add_stages(
    model: nn.Module, kind: Any, blocks: Sequence[int], width: int, widen: int = 1
) -> int:
    """Add `layer1`, `layer2`, ... of so many blocks to a model; return the channels of the last."""
    inputs = width
    for stage, count in enumerate(blocks):
        outputs = widen * width * 2**stage
        layers = []
        for block in range(count):
            layers.append(kind(inputs, outputs, 2 if stage and not block else 1))
            inputs = outputs
        model.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
    return inputs


class CompactCNN(nn.Module):
    """Three convolutions, with residual blocks after the second: quick to train on small images.

    The first convolution has a stride of 2, the second a max-pool. They are not padded (a 28x28
    image becomes 12x12, 5x5 and 3x3) unless the image is too small for that.
    """

    def __init__(
        self,
        input_shape: Sequence[int] = (1, 28, 28),
        classes: int = 10,
        width: int = 16,
        blocks: int = 1,
    ) -> None:
        super().__init__()
        self.channels, *sides = input_shape
        pad = 0 if min(sides) >= 20 else 1
        self.conv1 = nn.Conv2d(self.channels, width, 5, stride=2, padding=2 * pad, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, padding=pad, bias=False)
        self.bn2 = nn.BatchNorm2d(2 * width)
        self.blocks = nn.Sequential(*(BasicBlock(2 * width, 2 * width, 1) for _ in range(blocks)))
        self.conv3 = nn.Conv2d(2 * width, 4 * width, 3, padding=pad, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        left = [(side + 1) // 4 if pad else ((side - 3) // 2 - 2) // 2 - 2 for side in sides]
        self.fc = nn.Linear(4 * width * math.prod(left), classes)

    def forward(self, xb: Tensor) -> Tensor:
        xb = as_images(xb, self.channels)
        xb = F.relu(self.bn1(self.conv1(xb)))
        xb = self.blocks(F.relu(self.bn2(F.max_pool2d(self.conv2(xb), 2))))
        return self.fc(F.relu(self.bn3(self.conv3(xb))).flatten(1))


class ResNet(nn.Module):
    """A small residual network for small images (He et al. 2015, arXiv:1512.03385, section 4.2).

    A 3x3 stem, then one stage for each entry of `blocks`; every stage after the first halves the
    image and doubles the channels. Parameters have torchvision's names (`layer1.0.conv1.weight`).
    """

    def __init__(
        self,
        channels: int = 1,
        classes: int = 10,
        blocks: Sequence[int] = (1, 1, 1),
        width: int = 16,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.stages = len(blocks)
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        inputs = add_stages(self, BasicBlock, blocks, width)
        self.fc = nn.Linear(inputs, classes)

    def forward(self, xb: Tensor) -> Tensor:
        xb = as_images(xb, self.channels)
        xb = F.relu(self.bn1(self.conv1(xb)))
        for stage in range(self.stages):
            xb = self.get_submodule(f"layer{stage + 1}")(xb)
        return self.fc(xb.mean((2, 3)))


def double_convolution(inputs: int, outputs: int) -> nn.Sequential:
    sizes = (inputs, outputs, outputs)
    pairs = [
        (nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU())
        for before, after in pairwise(sizes)
    ]
    return nn.Sequential(*(layer for pair in pairs for layer in pair))


class UNet(nn.Module):
    """A class for each pixel: (batch, channels, H, W) -> (batch, classes, H, W), of any size.

    `depth` times the image is halved and the channels are doubled, and back, each time joined by
    what was there at that size (Ronneberger et al. 2015, "U-Net", here padded and with batch norm).
    """

    def __init__(
        self, channels: int = 3, classes: int = 2, width: int = 16, depth: int = 3
    ) -> None:
        super().__init__()
        self.depth = depth
        widths = [width * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(
            double_convolution(*sizes) for sizes in pairwise([channels, *widths])
        )
        steps = list(pairwise(reversed(widths)))
        self.enlarge = nn.ModuleList(
            nn.ConvTranspose2d(below, above, 2, stride=2) for below, above in steps
        )
        self.up = nn.ModuleList(double_convolution(2 * above, above) for _, above in steps)
        self.out = nn.Conv2d(width, classes, 1)

    def forward(self, xb: Tensor) -> Tensor:
        height, width = xb.shape[2:]
        whole = 2**self.depth
        xb = F.pad(xb, (0, -width % whole, 0, -height % whole))
        kept = []
        for level, block in enumerate(self.down):
            xb = block(xb if level == 0 else F.max_pool2d(xb, 2))
            kept.append(xb)
        kept.pop()
        for enlarge, block in zip(self.enlarge, self.up, strict=True):
            xb = block(torch.cat([kept.pop(), enlarge(xb)], dim=1))
        return self.out(xb)[:, :, :height, :width]


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
        blocks = {18: (2, 2, 2, 2)}.get(depth, (3, 4, 6, 3))
        inputs = add_stages(self, kind, blocks, 64, widen)
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

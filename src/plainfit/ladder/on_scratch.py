"""What is torch.nn, really? The parts of it that the rungs use, on tensors and autograd alone.

A program runs on them when one line takes the place of its imports of torch's own:

    from plainfit.ladder.on_scratch import F, nn, optim, DataLoader, TensorDataset

Options have PyTorch's names, order and defaults (https://pytorch.org/docs/stable/nn.html). Initial
values, random draws, the order of the data, Linear, ReLU, Dropout, AvgPool2d, the optimizers and
cross_entropy, where it ignores no row, have PyTorch's bits on a CPU. Conv2d, BatchNorm2d and a pool
to several cells are sums in another order, so they round differently. Images are (batch, channels,
height, width); a size is a number, or a pair of height and width.

The code is in `plainfit.ladder.scratch`: `plainfit eject` writes the same text into scripts.
"""
# ruff: noqa: F403 -- the names by which programs know the parts, all in one

import sys

from plainfit.ladder.scratch.activations import *
from plainfit.ladder.scratch.averages import *
from plainfit.ladder.scratch.data import *
from plainfit.ladder.scratch.functional import *
from plainfit.ladder.scratch.layers import *
from plainfit.ladder.scratch.modules import *
from plainfit.ladder.scratch.optimizers import *

nn = F = optim = sys.modules[__name__]  # the names by which programs know the parts; here one

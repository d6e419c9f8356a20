"""Gradients clipped, and weights averaged, as torch.nn.utils and torch.optim.swa_utils do."""

from copy import deepcopy

import torch

from plainfit.ladder.scratch import modules as nn


@torch.no_grad()
def clip_grad_norm_(parameters, max_norm):
    """Scale the gradients down to the largest norm, all as one vector; return what it was."""
    parameters = [parameters] if isinstance(parameters, torch.Tensor) else parameters
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.stack([g.norm() for g in gradients]).norm()
    scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for g in gradients:
        g.mul_(scale)
    return norm


@torch.no_grad()
def clip_grad_value_(parameters, clip_value):
    """Cut the gradients off at -clip_value and clip_value."""
    parameters = [parameters] if isinstance(parameters, torch.Tensor) else parameters
    for p in parameters:
        if p.grad is not None:
            p.grad.clamp_(-clip_value, clip_value)


def get_ema_multi_avg_fn(decay=0.999):
    """Return the rule of an exponential moving average (Polyak and Juditsky 1992)."""

    @torch.no_grad()
    def move(averages, values, count):
        for average, value in zip(averages, values, strict=True):
            if average.is_floating_point():
                average.lerp_(value, 1 - decay)
            else:  # such as batch norm's count of batches
                average.copy_(average * decay + value * (1 - decay))

    return move


def get_swa_multi_avg_fn():
    """Return the rule of a plain mean (Izmailov et al. 2018, arXiv:1803.05407)."""

    @torch.no_grad()
    def move(averages, values, count):
        for average, value in zip(averages, values, strict=True):
            average.lerp_(value, 1 / (int(count) + 1))

    return move


class AveragedModel(nn.Module):
    """A copy of a model, with averages of its weights by a rule."""

    def __init__(self, model, *, multi_avg_fn, use_buffers=False):
        super().__init__()
        self.module = deepcopy(model)
        self.register_buffer("n_averaged", torch.tensor(0))
        self.multi_avg_fn = multi_avg_fn
        self.use_buffers = use_buffers

    def forward(self, *args):
        return self.module(*args)

    @torch.no_grad()
    def update_parameters(self, model):
        pairs = [*zip(self.module.parameters(), model.parameters(), strict=True)]
        buffers = [*zip(self.module.buffers(), model.buffers(), strict=True)]
        for average, value in pairs + buffers if self.use_buffers else pairs:
            if self.n_averaged == 0:
                average.copy_(value)
            else:
                self.multi_avg_fn([average], [value], self.n_averaged)
        if not self.use_buffers:
            for copy, buffer in buffers:
                copy.copy_(buffer)
        self.n_averaged += 1

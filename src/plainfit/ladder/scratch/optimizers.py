"""Optimizers in PyTorch's order of operations; gradients clipped, and weights averaged."""

from copy import deepcopy

import torch

from plainfit.ladder.scratch import modules as nn


def check_options(options):
    for name in ("lr", "momentum", "weight_decay", "eps"):
        if not options.get(name, 0) >= 0:
            raise ValueError(f"{name} must be at least 0, got {options[name]}")
    if not all(0 <= beta < 1 for beta in options.get("betas", ())):
        raise ValueError(f"betas must be at least 0 and below 1, got {options['betas']}")


class Optimizer:
    """Parameters in groups that share options, and a state for each parameter.

    A subclass has `update`, which changes a parameter p, with gradient g, in place.
    """

    def __init__(self, params, **options):
        check_options(options)
        groups = list(params)
        if not groups:
            raise ValueError("an optimizer must be given parameters, got an empty list")
        if not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        self.param_groups = [{**options, **group, "params": [*group["params"]]} for group in groups]
        self.state = {}

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self.update(p, p.grad, self.state.setdefault(p, {}), group)

    def zero_grad(self, set_to_none=True):
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None if set_to_none or p.grad is None else torch.zeros_like(p.grad)


class SGD(Optimizer):
    """Stochastic gradient descent: p -= lr * g, or lr * v with v = momentum * v + g.

    Sutskever et al. 2013, https://proceedings.mlr.press/v28/sutskever13.html, on momentum.
    """

    def __init__(self, params, lr=1e-3, momentum=0, dampening=0, weight_decay=0, nesterov=False):
        if nesterov and (momentum == 0 or dampening != 0):
            raise ValueError(
                "nesterov needs momentum above 0 and dampening 0, "
                f"got momentum {momentum} and dampening {dampening}"
            )
        options = {"momentum": momentum, "dampening": dampening, "nesterov": nesterov}
        super().__init__(params, lr=lr, weight_decay=weight_decay, **options)

    def update(self, p, g, state, group):
        if group["weight_decay"]:
            g = g.add(p, alpha=group["weight_decay"])
        if group["momentum"]:
            if "v" in state:
                state["v"].mul_(group["momentum"]).add_(g, alpha=1 - group["dampening"])
            else:
                state["v"] = g.clone()
            g = g.add(state["v"], alpha=group["momentum"]) if group["nesterov"] else state["v"]
        p.sub_(g, alpha=group["lr"])


def adam_step(p, g, state, group):
    """Move p by m / (sqrt(v) + eps), where m and v are the running means of g and g * g."""
    if not state:
        state.update(step=0, m=torch.zeros_like(p), v=torch.zeros_like(p))
    state["step"] += 1
    lr, (beta1, beta2), m, v = group["lr"], group["betas"], state["m"], state["v"]
    m.lerp_(g, 1 - beta1)
    v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
    correction1, correction2 = (1 - beta ** state["step"] for beta in (beta1, beta2))
    scale = (v.sqrt() / correction2**0.5).add_(group["eps"])
    p.addcdiv_(m, scale, value=-lr / correction1)


class Adam(Optimizer):
    """Steps of m / (sqrt(v) + eps), m and v the running means of g and g * g.

    Kingma and Ba 2014, arXiv:1412.6980, algorithm 1.
    """

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0):
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)

    def update(self, p, g, state, group):
        if group["weight_decay"]:
            g = g.add(p, alpha=group["weight_decay"])
        adam_step(p, g, state, group)


class AdamW(Optimizer):
    """Steps of m / (sqrt(v) + eps), as of Adam, and weights that decay apart from them.

    Loshchilov and Hutter 2017, arXiv:1711.05101, algorithm 2.
    """

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2):
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)

    def update(self, p, g, state, group):
        p.mul_(1 - group["lr"] * group["weight_decay"])  # weight decay
        adam_step(p, g, state, group)


class RMSprop(Optimizer):
    """Steps of g / (sqrt(v) + eps), v the running mean of g * g; centered, of (g - mean)^2.

    Hinton 2012, https://www.cs.toronto.edu/~tijmen/csc321/slides/lecture_slides_lec6.pdf; centered
    and with momentum: Graves 2013, arXiv:1308.0850, section 4.2.
    """

    def __init__(
        self, params, lr=1e-2, alpha=0.99, eps=1e-8, weight_decay=0, momentum=0, centered=False
    ):
        options = {"alpha": alpha, "eps": eps, "momentum": momentum, "centered": centered}
        super().__init__(params, lr=lr, weight_decay=weight_decay, **options)

    def update(self, p, g, state, group):
        if group["weight_decay"]:
            g = g.add(p, alpha=group["weight_decay"])
        if not state:
            state.update(v=torch.zeros_like(p), mean=torch.zeros_like(p), steps=torch.zeros_like(p))
        state["v"].mul_(group["alpha"]).addcmul_(g, g, value=1 - group["alpha"])
        scale = state["v"]
        if group["centered"]:
            state["mean"].lerp_(g, 1 - group["alpha"])
            scale = scale.addcmul(state["mean"], state["mean"], value=-1)
        scale = scale.sqrt().add_(group["eps"])
        if group["momentum"]:
            state["steps"].mul_(group["momentum"]).addcdiv_(g, scale)
            p.sub_(state["steps"], alpha=group["lr"])
        else:
            p.addcdiv_(g, scale, value=-group["lr"])


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
        for average, value in [] if self.use_buffers else buffers:
            average.copy_(value)
        self.n_averaged += 1

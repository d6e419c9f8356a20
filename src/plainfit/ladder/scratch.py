"""What is torch.nn, really? The parts of it that the rungs use, on tensors and autograd alone.

A program runs on them when one line takes the place of its imports of torch's own:

    from plainfit.ladder.scratch import F, nn, optim, DataLoader, TensorDataset

Options have PyTorch's names, order and defaults (https://pytorch.org/docs/stable/nn.html). Initial
values, random draws, the order of the data, Linear, ReLU, Dropout, AvgPool2d, SGD, AdamW and the
gradient of cross_entropy have PyTorch's bits on a CPU. Conv2d, BatchNorm2d, a pool to several cells
and the value of cross_entropy are sums in another order, so they round differently. Images are
(batch, channels, height, width); a size is a number, or a pair of height and width.
"""
# ruff: noqa: D102 -- a method does what PyTorch's of that name does; its class says what it is

import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import reduce
from itertools import islice, product

import torch
from torch import Generator, Tensor

# --- Modules: state and a function ----------------------------------------------------------------


class Parameter(Tensor):
    """A tensor that a module trains."""

    # An operation on parameters gives an ordinary tensor.
    __torch_function__ = torch._C._disabled_torch_function_impl

    def __new__(cls, data=None, requires_grad=True):
        return cls._make_subclass(cls, torch.empty(0) if data is None else data, requires_grad)


class Module:
    """A callable with state: attributes that are parameters or modules register themselves.

    So do buffers, tensors that are not trained, by `register_buffer`. The state of a module is its
    own and, with dotted names, that of the modules in it; what is shared counts once.
    """

    def __init__(self):
        self.training = True
        self._kinds = {}  # of each registered attribute: Parameter, Module, or Tensor for a buffer

    def __setattr__(self, name, value):
        for kind in (Parameter, Module):
            if isinstance(value, kind):
                if "_kinds" not in vars(self):
                    raise AttributeError(
                        f"{type(self).__name__} must call super().__init__() before it gets "
                        f"parameters and modules, and got {name!r} first"
                    )
                self._kinds[name] = kind
        super().__setattr__(name, value)

    def register_buffer(self, name, tensor):
        self._kinds[name] = Tensor
        setattr(self, name, tensor)

    def __call__(self, *args):
        return self.forward(*args)

    def forward(self, *args):
        raise NotImplementedError(f"{type(self).__name__} must define forward")

    def own(self, kind):
        """Yield the names and attributes of a kind, those that are None excepted."""
        for name, registered in self._kinds.items():
            if registered is kind and isinstance(getattr(self, name, None), kind):
                yield name, getattr(self, name)

    def named_modules(self, prefix=""):
        yield prefix, self
        for name, child in self.own(Module):
            yield from child.named_modules(f"{prefix}.{name}" if prefix else name)

    def named(self, *kinds):
        """Yield the dotted names and attributes of some kinds in all modules."""
        for prefix, module in self.named_modules():
            for kind in kinds:
                for name, value in module.own(kind):
                    yield f"{prefix}.{name}" if prefix else name, value

    def named_parameters(self):
        seen = set()
        for name, parameter in self.named(Parameter):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                yield name, parameter

    def parameters(self):
        return (parameter for _, parameter in self.named_parameters())

    def named_buffers(self):
        return self.named(Tensor)

    def state_dict(self):
        return {name: tensor.detach() for name, tensor in self.named(Parameter, Tensor)}

    def load_state_dict(self, state_dict):
        own = self.state_dict()
        shapes = [{name: x.shape for name, x in state.items()} for state in (own, state_dict)]
        wrong = {name for name, _ in shapes[0].items() ^ shapes[1].items()}
        if wrong:
            raise RuntimeError(
                f"a state_dict must have the names and shapes of {type(self).__name__}, and has "
                f"others for {', '.join(sorted(wrong))}"
            )
        for name, tensor in own.items():
            tensor.copy_(state_dict[name])

    def train(self, mode=True):
        for _, module in self.named_modules():
            module.training = mode
        return self

    def eval(self):
        return self.train(False)

    def zero_grad(self, set_to_none=True):
        clear_gradients(self.parameters(), set_to_none)

    def to(self, target):
        for _, tensor in self.named(Parameter, Tensor):
            if tensor.is_floating_point() or not isinstance(target, torch.dtype):
                tensor.data = tensor.data.to(target)
        return self


# --- Functions: autograd does the rest ------------------------------------------------------------


def relu(input):
    """Return max(input, 0), with gradient 0 at 0; NaN stays NaN."""
    return input.masked_fill(input <= 0, 0)


def pair(size):
    """Return a size as height and width."""
    return size if isinstance(size, tuple) else (size, size)


def pad(input, padding):
    """Add zeros above and below, left and right."""
    rows, columns = pair(padding)
    return torch.constant_pad_nd(input, (columns, columns, rows, rows))


def avg_pool2d(input, kernel_size, stride=None, padding=0):
    """Return the mean of every window; it moves by `stride`, or else by its own size."""
    (high, wide), (down, right) = pair(kernel_size), pair(stride or kernel_size)
    if any(2 * edge > size for edge, size in zip(pair(padding), (high, wide), strict=True)):
        raise ValueError(f"padding must be at most half of {kernel_size}, got {padding}")
    image = pad(input, padding)
    rows, columns = image.shape[-2] - high + 1, image.shape[-1] - wide + 1
    corners = product(range(high), range(wide))
    copies = (image[..., i : i + rows : down, j : j + columns : right] for i, j in corners)
    return reduce(torch.add, copies) / (high * wide)  # the sum of shifted images: all windows' sums


def cross_entropy(
    input, target, weight=None, *, ignore_index=-100, reduction="mean", label_smoothing=0.0
):
    """Return -log softmax(input) at the target: (batch, classes), (batch) -> () or (batch).

    A class counts by its weight. Label smoothing spreads a part of the target's probability over
    all classes (Szegedy et al. 2015, arXiv:1512.00567, section 7).
    """
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")
    logs = input.log_softmax(1)
    weight = input.new_ones(input.shape[1]) if weight is None else weight
    ignored = target == ignore_index
    target = target.masked_fill(ignored, 0)
    counts = weight[target].masked_fill(ignored, 0)
    losses = -(logs[torch.arange(len(target)), target] * counts)
    if label_smoothing:
        spread = -(logs * weight).mean(1).masked_fill(ignored, 0)
        losses = losses.lerp(spread, label_smoothing)
    if reduction == "none":
        return losses
    return losses.sum() / counts.sum() if reduction == "mean" else losses.sum()


# --- Layers: modules that call such functions -----------------------------------------------------


def uniform(*shape, fan_in):
    """Draw initial values between -1 / sqrt(fan_in) and 1 / sqrt(fan_in)."""
    return Parameter(torch.empty(shape).uniform_(-(fan_in**-0.5), fan_in**-0.5))


class Linear(Module):
    """Every output a weighted sum of all inputs: (..., in_features) -> (..., out_features)."""

    def __init__(self, in_features, out_features, bias=True):
        super().__init__()
        self.weight = uniform(out_features, in_features, fan_in=in_features)
        self.bias = uniform(out_features, fan_in=in_features) if bias else None

    def forward(self, input):
        if self.bias is None:
            return input.matmul(self.weight.t())
        rows = input.reshape(-1, input.shape[-1])  # addmm adds the bias within the product
        return torch.addmm(self.bias, rows, self.weight.t()).reshape(*input.shape[:-1], -1)


class Conv2d(Module):
    """The same weighted sums in every window of the image: a linear layer on windows.

    A window's pixels are `dilation` apart, it moves by `stride`, and `groups` of channels do not
    see each other (Dumoulin and Visin 2016, arXiv:1603.07285, has pictures of all of them).
    """

    def __init__(
        self,
        in_channels,
        out_channels,
        kernel_size,
        stride=1,
        padding=0,
        dilation=1,
        groups=1,
        bias=True,
    ):
        super().__init__()
        if in_channels % groups or out_channels % groups:
            raise ValueError(
                f"groups must divide the channels, got {groups} of {in_channels} and {out_channels}"
            )
        self.stride, self.dilation = pair(stride), pair(dilation)
        self.padding, self.groups = padding, groups
        shape = (in_channels // groups, *pair(kernel_size))
        fan_in = shape[0] * shape[1] * shape[2]
        self.weight = uniform(out_channels, *shape, fan_in=fan_in)
        self.bias = uniform(out_channels, fan_in=fan_in) if bias else None

    def forward(self, input):
        (high, wide), (down, right) = self.weight.shape[2:], self.stride
        row, column = self.dilation
        windows = pad(input, self.padding).unfold(2, row * (high - 1) + 1, down)
        windows = windows.unfold(3, column * (wide - 1) + 1, right)[..., ::row, ::column]
        batch, _, rows, columns, _, _ = windows.shape  # the last two: high, wide
        filters = self.weight.reshape(self.groups, len(self.weight) // self.groups, -1)
        windows = windows.movedim((4, 5), (2, 3))
        windows = windows.reshape(batch, self.groups, filters.shape[2], rows * columns)
        output = filters.matmul(windows).reshape(batch, -1, rows, columns)
        return output if self.bias is None else output + self.bias[:, None, None]


class ReLU(Module):
    """max(input, 0)."""

    def forward(self, input):
        return relu(input)


class AvgPool2d(Module):
    """The mean of every window."""

    def __init__(self, kernel_size, stride=None, padding=0):
        super().__init__()
        self.window = kernel_size, stride, padding

    def forward(self, input):
        return avg_pool2d(input, *self.window)


class AdaptiveAvgPool2d(Module):
    """The means of (rows, columns) cells that cover the image; None is one for each pixel."""

    def __init__(self, output_size):
        super().__init__()
        self.output_size = pair(output_size)

    def forward(self, input):
        sizes = input.shape[-2:]
        counts = [n or size for n, size in zip(self.output_size, sizes, strict=True)]
        rows, columns = (
            [slice(i * size // n, -(-(i + 1) * size // n)) for i in range(n)]
            for n, size in zip(counts, sizes, strict=True)
        )
        cells = [input[..., row, column].mean((-2, -1)) for row, column in product(rows, columns)]
        return torch.stack(cells, -1).reshape(*input.shape[:-2], *counts)


class Flatten(Module):
    """Several dimensions as one: (batch, ...) -> (batch, features)."""

    def __init__(self, start_dim=1, end_dim=-1):
        super().__init__()
        self.dims = start_dim, end_dim

    def forward(self, input):
        return input.flatten(*self.dims)


class Dropout(Module):
    """In training, zeros with probability p, and the rest divided by 1 - p: the mean stays.

    Srivastava et al. 2014, https://jmlr.org/papers/v15/srivastava14a.html
    """

    def __init__(self, p=0.5):
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"a dropout probability must be between 0 and 1, got {p}")
        self.p = p

    def forward(self, input):
        if not self.training or self.p == 0:
            return input
        if self.p == 1:
            return input * 0
        return input * torch.empty_like(input).bernoulli_(1 - self.p).div_(1 - self.p)


class BatchNorm2d(Module):
    """Each channel with mean 0 and variance 1, then a weight and a bias (arXiv:1502.03167).

    Training uses the batch's mean and variance and moves the running ones, which `eval()` uses,
    towards them by `momentum`; with None they are plain averages of all batches.
    """

    def __init__(self, num_features, eps=1e-5, momentum=0.1, affine=True):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = Parameter(torch.ones(num_features)) if affine else None
        self.bias = Parameter(torch.zeros(num_features)) if affine else None
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, input):
        mean, var = self.running_mean, self.running_var
        if self.training:
            self.num_batches_tracked += 1
            share = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
            mean, var = input.mean((0, 2, 3)), input.var((0, 2, 3), correction=0)
            self.running_mean.lerp_(mean.detach(), share)
            self.running_var.lerp_(input.detach().var((0, 2, 3)), share)
        output = (input - mean[:, None, None]) * (var + self.eps).rsqrt()[:, None, None]
        if self.weight is None:
            return output
        return output * self.weight[:, None, None] + self.bias[:, None, None]


class Sequential(Module):
    """Modules called one after another, each on what the one before returned."""

    def __init__(self, *args):
        super().__init__()
        for number, module in enumerate(args):
            setattr(self, str(number), module)

    def forward(self, input):
        return reduce(lambda output, module: module(output), self, input)

    def __iter__(self):
        return (module for _, module in self.own(Module))

    def __getitem__(self, index):
        return list(self)[index]


class Lambda(Module):
    """A layer that calls a function."""

    def __init__(self, func):
        super().__init__()
        self.func = func

    def forward(self, input):
        return self.func(input)


# --- Optimizers: loops over parameters, in PyTorch's order of operations --------------------------


def clear_gradients(parameters, set_to_none):
    """Forget the gradients, or set them to 0."""
    for parameter in parameters:
        if set_to_none:
            parameter.grad = None
        elif parameter.grad is not None:
            parameter.grad = torch.zeros_like(parameter.grad)


class Optimizer:
    """Parameters in groups that share options, and what is remembered of each parameter."""

    def __init__(self, params, **options):
        groups = list(params)
        if not groups:
            raise ValueError("an optimizer must be given parameters, got an empty list")
        for name in ("lr", "momentum", "weight_decay", "eps"):
            if not options.get(name, 0) >= 0:
                raise ValueError(f"{name} must be at least 0, got {options[name]}")
        if not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        self.param_groups = [{**options, **group, "params": [*group["params"]]} for group in groups]
        self.state = defaultdict(dict)

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self.update(p, p.grad, self.state[p], group)

    def zero_grad(self, set_to_none=True):
        for group in self.param_groups:
            clear_gradients(group["params"], set_to_none)


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
        """Update a parameter p, which has gradient g, in place."""
        if group["weight_decay"]:
            g = g.add(p, alpha=group["weight_decay"])
        if group["momentum"]:
            if "v" in state:
                state["v"].mul_(group["momentum"]).add_(g, alpha=1 - group["dampening"])
            else:
                state["v"] = g.clone()
            g = g.add(state["v"], alpha=group["momentum"]) if group["nesterov"] else state["v"]
        p.sub_(g, alpha=group["lr"])


class AdamW(Optimizer):
    """Steps of m / (sqrt(v) + eps), m and v the running means of g and g * g; decay apart.

    Kingma and Ba 2014, arXiv:1412.6980, algorithm 1; Loshchilov and Hutter 2017, arXiv:1711.05101,
    algorithm 2.
    """

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2):
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas must be at least 0 and below 1, got {betas}")
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)

    def update(self, p, g, state, group):
        """Update a parameter p, which has gradient g, in place."""
        if not state:
            state.update(step=0, m=torch.zeros_like(p), v=torch.zeros_like(p))
        state["step"] += 1
        lr, (beta1, beta2), m, v = group["lr"], group["betas"], state["m"], state["v"]
        p.mul_(1 - lr * group["weight_decay"])
        m.lerp_(g, 1 - beta1)
        v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        correction1, correction2 = (1 - beta ** state["step"] for beta in (beta1, beta2))
        scale = (v.sqrt() / correction2**0.5).add_(group["eps"])
        p.addcdiv_(m, scale, value=-lr / correction1)


# --- Data: row numbers, cut into batches, and a look-up -------------------------------------------


class TensorDataset:
    """Rows of tensors of the same length: `dataset[i]` is `(x[i], y[i])`."""

    def __init__(self, *tensors):
        if len({len(tensor) for tensor in tensors}) != 1:
            lengths = [len(tensor) for tensor in tensors]
            raise ValueError(f"tensors must have the same number of rows, got {lengths}")
        self.tensors = tensors

    def __getitem__(self, index):
        return tuple(tensor[index] for tensor in self.tensors)

    def __len__(self):
        return len(self.tensors[0])


def draw_seed(generator=None):
    """Draw a seed from a generator, or from the global one."""
    return int(torch.empty((), dtype=torch.int64).random_(generator=generator))


class RandomSampler:
    """Row numbers in random order, without repetition.

    Without a generator each pass makes one, seeded from the global generator.
    """

    def __init__(self, data_source, *, generator=None):
        self.data_source, self.generator = data_source, generator

    def __iter__(self):
        generator = self.generator or Generator().manual_seed(draw_seed())
        yield from torch.randperm(len(self), generator=generator).tolist()
        torch.randperm(len(self), generator=generator)  # PyTorch draws a second one and drops it

    def __len__(self):
        return len(self.data_source)


class BatchSampler:
    """The numbers that a sampler yields, in lists of `batch_size`."""

    def __init__(self, sampler, batch_size, drop_last):
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.sampler, self.batch_size, self.drop_last = sampler, batch_size, drop_last

    def __iter__(self):
        rows = iter(self.sampler)
        while batch := list(islice(rows, self.batch_size)):
            if len(batch) == self.batch_size or not self.drop_last:
                yield batch

    def __len__(self):
        rows = len(self.sampler)
        return rows // self.batch_size if self.drop_last else -(-rows // self.batch_size)


def default_collate(batch):
    """Stack samples: tensors, numbers, and within dicts, lists and tuples; strings stay a list."""
    first = batch[0]
    if isinstance(first, Tensor):
        return torch.stack(batch)
    if isinstance(first, int | float):
        return torch.tensor(batch, dtype=torch.float64 if isinstance(first, float) else None)
    if isinstance(first, str | bytes):
        return batch
    if isinstance(first, Mapping):
        return {key: default_collate([sample[key] for sample in batch]) for key in first}
    if isinstance(first, Sequence):
        parts = [default_collate(part) for part in zip(*batch, strict=True)]
        return type(first)(*parts) if hasattr(first, "_fields") else parts
    raise TypeError(
        "samples must be tensors, numbers, strings, or dicts, lists or tuples of them, "
        f"got {type(first).__name__}; pass a collate_fn"
    )


class DataLoader:
    """Batches of a dataset: `collate_fn` of the rows in each list of `batch_sampler`."""

    def __init__(
        self,
        dataset,
        batch_size=1,
        shuffle=None,
        *,
        collate_fn=None,
        drop_last=False,
        generator=None,
    ):
        rows = RandomSampler(dataset, generator=generator) if shuffle else range(len(dataset))
        self.dataset, self.generator = dataset, generator
        self.collate_fn = collate_fn or default_collate
        self.batch_sampler = BatchSampler(rows, batch_size, drop_last)

    def __iter__(self):
        draw_seed(self.generator)  # PyTorch's seed for worker processes, drawn without them too
        return (self.collate_fn([self.dataset[i] for i in rows]) for rows in self.batch_sampler)

    def __len__(self):
        return len(self.batch_sampler)


nn = F = optim = sys.modules[__name__]  # the names by which programs know the parts; here one

"""Modules: state and a function; and initial values, as torch.nn.init draws them."""

import math

import torch
from torch import Tensor


class Parameter(Tensor):
    """A tensor that a module trains; operations on it give ordinary tensors."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    def __new__(cls, data=None, requires_grad=True):
        return cls._make_subclass(cls, torch.empty(0) if data is None else data, requires_grad)

    def __deepcopy__(self, memo):
        return Parameter(self.detach().clone(), self.requires_grad)


class Module:
    """A callable with state: its attributes that are parameters, modules or buffers.

    Buffers are tensors that are not trained, made by `register_buffer`. The state of a module is
    its own and, with dotted names, that of the modules in it; what is shared counts once.
    """

    def __init__(self):
        self.training = True
        self.buffer_names = []

    def __setattr__(self, name, value):
        if isinstance(value, Parameter | Module) and "buffer_names" not in vars(self):
            raise AttributeError(
                f"{type(self).__name__} must call super().__init__() before it gets "
                f"parameters and modules, and got {name!r} first"
            )
        super().__setattr__(name, value)

    def register_buffer(self, name, tensor):
        self.buffer_names.append(name)
        setattr(self, name, tensor)

    def register_parameter(self, name, param):
        setattr(self, name, param)

    def add_module(self, name, module):
        setattr(self, name, module)

    def __call__(self, *args, **kwargs):
        return self.forward(*args, **kwargs)

    def forward(self, *args):
        raise NotImplementedError(f"{type(self).__name__} must define forward")

    def own(self, kind):
        return [(name, value) for name, value in vars(self).items() if isinstance(value, kind)]

    def named_tensors(self, prefix=""):
        """Yield the dotted names and values of all parameters and buffers."""
        for name, parameter in self.own(Parameter):
            yield prefix + name, parameter
        for name in self.buffer_names:
            if vars(self).get(name) is not None:
                yield prefix + name, vars(self)[name]
        for name, module in self.own(Module):
            yield from module.named_tensors(f"{prefix}{name}.")

    def named_children(self):
        return iter(self.own(Module))

    def children(self):
        return iter(dict.fromkeys(module for _, module in self.own(Module)))

    def named_modules(self, prefix=""):
        yield prefix, self
        for name, module in self.own(Module):
            yield from module.named_modules(f"{prefix}.{name}" if prefix else name)

    def modules(self):
        return iter(dict.fromkeys(module for _, module in self.named_modules()))

    def get_submodule(self, target):
        return dict(self.named_modules())[target]

    def named_parameters(self):
        names = {}
        for name, tensor in self.named_tensors():
            if isinstance(tensor, Parameter):
                names.setdefault(tensor, name)
        return ((name, parameter) for parameter, name in names.items())

    def parameters(self):
        tensors = dict.fromkeys(tensor for _, tensor in self.named_tensors())  # each once
        return (tensor for tensor in tensors if isinstance(tensor, Parameter))

    def named_buffers(self):
        names = {}
        for name, tensor in self.named_tensors():
            if not isinstance(tensor, Parameter):
                names.setdefault(tensor, name)
        return ((name, buffer) for buffer, name in names.items())

    def buffers(self):
        return (buffer for _, buffer in self.named_buffers())

    def state_dict(self):
        return {name: tensor.detach() for name, tensor in self.named_tensors()}

    def load_state_dict(self, state_dict):
        if wrong := mismatches(self.state_dict(), state_dict):
            raise RuntimeError(
                f"a state_dict must have the names and shapes of {type(self).__name__}, and has "
                f"others for {', '.join(sorted(wrong))}"
            )
        for name, tensor in self.state_dict().items():
            tensor.copy_(state_dict[name])

    def train(self, mode=True):
        self.training = mode
        for _, module in self.own(Module):
            module.train(mode)
        return self

    def eval(self):
        return self.train(False)

    def apply(self, fn):
        for module in self.children():
            module.apply(fn)
        fn(self)
        return self

    def requires_grad_(self, requires_grad=True):
        for parameter in self.parameters():
            parameter.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none=True):
        for p in self.parameters():
            p.grad = None if set_to_none or p.grad is None else torch.zeros_like(p.grad)

    def to(self, target):
        for _, tensor in self.named_tensors():
            if tensor.is_floating_point() or not isinstance(target, torch.dtype):
                tensor.data = tensor.data.to(target)
        return self

    def double(self):
        return self.to(torch.float64)

    def float(self):
        return self.to(torch.float32)


def mismatches(own, other):
    """Return the names that are in only one state, or have different shapes in the two."""
    shapes = [{name: x.shape for name, x in state.items()} for state in (own, other)]
    return {name for name, _ in shapes[0].items() ^ shapes[1].items()}


class ModuleList(Module):
    """A list of modules, each of which registers itself."""

    def __init__(self, modules=()):
        super().__init__()
        for module in modules:
            self.append(module)

    def append(self, module):
        setattr(self, str(len(self)), module)
        return self

    def __iter__(self):
        return (module for _, module in self.own(Module))

    def __len__(self):
        return len(self.own(Module))

    def __getitem__(self, index):
        return list(self)[index]


class Sequential(ModuleList):
    """Modules called one after another, each on what the one before returned."""

    def __init__(self, *args):
        super().__init__(args)

    def forward(self, input):
        for module in self:
            input = module(input)
        return input


@torch.no_grad()
def zeros_(tensor):
    return tensor.zero_()


@torch.no_grad()
def ones_(tensor):
    return tensor.fill_(1.0)


@torch.no_grad()
def constant_(tensor, val):
    return tensor.fill_(val)


@torch.no_grad()
def normal_(tensor, mean=0.0, std=1.0):
    return tensor.normal_(mean, std)


@torch.no_grad()
def uniform_(tensor, a=0.0, b=1.0):
    return tensor.uniform_(a, b)


def fans(tensor):
    """Return the number of inputs of an output, and of outputs of an input."""
    field = math.prod(tensor.shape[2:])  # 1 for a matrix, the pixels of a window for a convolution
    return tensor.shape[1] * field, tensor.shape[0] * field


def kaiming_std(tensor, a, mode, nonlinearity):
    """Return the standard deviation that keeps the size of activations (arXiv:1502.01852)."""
    slope = {"relu": 0, "leaky_relu": a}.get(nonlinearity, 1)
    gain = {"tanh": 5.0 / 3, "selu": 0.75}.get(nonlinearity, math.sqrt(2.0 / (1 + slope**2)))
    fan_in, fan_out = fans(tensor)
    return gain / math.sqrt(fan_out if mode == "fan_out" else fan_in)


@torch.no_grad()
def kaiming_normal_(tensor, a=0, mode="fan_in", nonlinearity="leaky_relu"):
    """Draw normally, so that activations keep their size (He et al. 2015, arXiv:1502.01852)."""
    return tensor.normal_(0, kaiming_std(tensor, a, mode, nonlinearity))


@torch.no_grad()
def kaiming_uniform_(tensor, a=0, mode="fan_in", nonlinearity="leaky_relu"):
    """Draw evenly, so that activations keep their size (He et al. 2015, arXiv:1502.01852)."""
    bound = math.sqrt(3.0) * kaiming_std(tensor, a, mode, nonlinearity)
    return tensor.uniform_(-bound, bound)


@torch.no_grad()
def xavier_normal_(tensor, gain=1.0):
    """Draw normally, so that both directions keep their size (Glorot and Bengio 2010)."""
    return tensor.normal_(0.0, gain * math.sqrt(2.0 / float(sum(fans(tensor)))))


@torch.no_grad()
def xavier_uniform_(tensor, gain=1.0):
    """Draw evenly, so that both directions keep their size (Glorot and Bengio 2010)."""
    bound = math.sqrt(3.0) * gain * math.sqrt(2.0 / float(sum(fans(tensor))))
    return tensor.uniform_(-bound, bound)

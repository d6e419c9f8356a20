"""Modules: state and a function."""

import torch
from torch import Tensor


class Parameter(Tensor):
    """A tensor that a module trains."""

    # An operation on parameters gives an ordinary tensor.
    __torch_function__ = torch._C._disabled_torch_function_impl

    def __new__(cls, data=None, requires_grad=True):
        return cls._make_subclass(cls, torch.empty(0) if data is None else data, requires_grad)

    def __deepcopy__(self, memo):
        return Parameter(self.detach().clone(), self.requires_grad)


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

    def register_parameter(self, name, param):
        setattr(self, name, param)

    def add_module(self, name, module):
        setattr(self, name, module)

    def __call__(self, *args, **kwargs):
        return self.forward(*args, **kwargs)

    def forward(self, *args):
        raise NotImplementedError(f"{type(self).__name__} must define forward")

    def own(self, kind):
        """Yield the names and attributes of a kind, those that are None excepted."""
        for name, registered in self._kinds.items():
            if registered is kind and isinstance(getattr(self, name, None), kind):
                yield name, getattr(self, name)

    def named_children(self):
        return self.own(Module)

    def children(self):
        return list(dict.fromkeys(module for _, module in self.own(Module)))

    def named_modules(self, prefix=""):
        yield prefix, self
        for name, child in self.own(Module):
            yield from child.named_modules(f"{prefix}.{name}" if prefix else name)

    def modules(self):
        return list(dict.fromkeys(module for _, module in self.named_modules()))

    def get_submodule(self, target):
        return dict(self.named_modules())[target]

    def named(self, *kinds):
        """Yield the dotted names and attributes of some kinds in all modules."""
        for prefix, module in self.named_modules():
            for kind in kinds:
                for name, value in module.own(kind):
                    yield f"{prefix}.{name}" if prefix else name, value

    def distinct(self, kind):
        """Yield the names and attributes of a kind, those shared by modules once."""
        seen = set()
        for name, value in self.named(kind):
            if id(value) not in seen:
                seen.add(id(value))
                yield name, value

    def named_parameters(self):
        return self.distinct(Parameter)

    def parameters(self):
        return (parameter for _, parameter in self.distinct(Parameter))

    def named_buffers(self):
        return self.distinct(Tensor)

    def buffers(self):
        return (buffer for _, buffer in self.distinct(Tensor))

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
        clear_gradients(self.parameters(), set_to_none)

    def to(self, target):
        for _, tensor in self.named(Parameter, Tensor):
            if tensor.is_floating_point() or not isinstance(target, torch.dtype):
                tensor.data = tensor.data.to(target)
        return self

    def double(self):
        return self.to(torch.float64)

    def float(self):
        return self.to(torch.float32)


def clear_gradients(parameters, set_to_none=True):
    """Forget the gradients, or set them to 0."""
    for parameter in parameters:
        if set_to_none:
            parameter.grad = None
        elif parameter.grad is not None:
            parameter.grad = torch.zeros_like(parameter.grad)


class Sequential(Module):
    """Modules called one after another, each on what the one before returned."""

    def __init__(self, *args):
        super().__init__()
        for number, module in enumerate(args):
            setattr(self, str(number), module)

    def forward(self, input):
        for module in self:
            input = module(input)
        return input

    def __iter__(self):
        return (module for _, module in self.own(Module))

    def __len__(self):
        return len(self._kinds)

    def __getitem__(self, index):
        return list(self)[index]


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
        return len(self._kinds)

    def __getitem__(self, index):
        return list(self)[index]


class Lambda(Module):
    """A layer that calls a function."""

    def __init__(self, func):
        super().__init__()
        self.func = func

    def forward(self, input):
        return self.func(input)

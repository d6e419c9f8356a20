"""`plainfit.ladder.scratch`: what a module is, the same signatures, and whole trainings."""

import ast
import inspect
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn, optim
from torch.utils import data

from plainfit.ladder import scratch
from plainfit.ladder.scratch import sums

# What we leave out, by name: it chooses an implementation, or is rare.
LEFT_OUT = {
    "Linear": "device dtype",
    "Conv2d": "padding_mode device dtype",
    "AvgPool2d": "ceil_mode count_include_pad divisor_override",
    "avg_pool2d": "ceil_mode count_include_pad divisor_override",
    "Dropout": "inplace",
    "BatchNorm2d": "track_running_stats device dtype bias",
    "RandomSampler": "replacement num_samples",
    "DataLoader": """sampler batch_sampler num_workers pin_memory timeout worker_init_fn
        multiprocessing_context prefetch_factor persistent_workers pin_memory_device in_order""",
    "SGD": "maximize foreach differentiable fused",
    "AdamW": "amsgrad maximize foreach capturable differentiable fused",
    "cross_entropy": "size_average reduce",
    "register_buffer": "persistent",
}
NAMES = {
    nn: """Parameter Linear Conv2d ReLU AvgPool2d AdaptiveAvgPool2d Flatten Dropout BatchNorm2d
        Sequential""",
    F: "cross_entropy relu",
    optim: "SGD AdamW",
    data: "TensorDataset RandomSampler BatchSampler DataLoader default_collate",
    nn.Module: "register_buffer train eval zero_grad",
}
BOTH = [
    (getattr(scratch.Module if of is nn.Module else scratch, name), getattr(of, name))
    for of, names in NAMES.items()
    for name in names.split()
]


@pytest.mark.parametrize(("ours", "theirs"), BOTH, ids=[ours.__name__ for ours, _ in BOTH])
def test_signatures_are_torchs(ours, theirs):
    left_out = LEFT_OUT.get(ours.__name__, "").split()
    mine, others = (list(inspect.signature(side).parameters.values()) for side in (ours, theirs))
    expected = [(p.name, p.default) for p in others if p.name not in left_out]
    assert [(p.name, p.default) for p in mine] == expected
    assert {p.name for p in others} >= set(left_out)
    for place, parameter in enumerate(mine):  # so that calls by position mean the same
        assert parameter.kind == parameter.KEYWORD_ONLY or others[place].name == parameter.name


KERNELS = {"batch_norm", "binary_cross_entropy_with_logits"}
"""Functions of `functions` that are for eject alone: the ladder has those of `sums`."""


def test_it_is_short_and_on_tensors_alone():
    paths = list(Path(scratch.__file__).parent.glob("*.py"))
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in paths]
    assert sum(map(lines_of_code, paths, trees)) <= 960
    nodes = [node for path, tree in zip(paths, trees, strict=True) for top in tree.body
             if path.stem != "functions" or getattr(top, "name", "") not in KERNELS
             for node in ast.walk(top) if isinstance(node, ast.Attribute)]  # fmt: skip
    used = {node.attr for node in nodes if ast.unparse(node.value) == "torch"}
    assert used == {
        "Tensor", "_C", "addmm", "arange", "constant_pad_nd", "dtype", "empty", "empty_like",
        "float32", "float64", "inf", "int64", "no_grad", "ones", "randperm", "stack", "sum",
        "tensor", "where", "zeros", "zeros_like",
    }  # fmt: skip
    methods = {node.attr for node in nodes if ast.unparse(node.value) != "F"}
    assert not methods & {"conv2d", "relu", "batch_norm", "dropout", "avg_pool2d"}
    for name in KERNELS:
        assert getattr(scratch, name) is getattr(sums, name)


def lines_of_code(path, tree):
    """Count the lines that are no docstrings, comments or blank."""
    described = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docstrings = [node.body[0] for node in ast.walk(tree)
                  if isinstance(node, described) and ast.get_docstring(node)]  # fmt: skip
    not_code = {n for node in docstrings for n in range(node.lineno, node.end_lineno + 1)}
    lines = enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
    return sum(n not in not_code and line.strip()[:1] not in ("", "#") for n, line in lines)


def net_on(side):
    """The same module on both sides: `net_on(scratch)`, `net_on(nn)`."""

    class Net(side.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("count", torch.zeros(2))
            self.register_buffer("nothing", None)
            self.inner = side.Sequential(side.Linear(3, 2), side.BatchNorm2d(2))
            self.scale = side.Parameter(torch.ones(2))
            self.shared = self.scale
            self.bias = None
            self.last = side.Parameter(torch.zeros(1))

    torch.manual_seed(0)
    return Net()


def described(net):
    return {
        "parameters": [name for name, _ in net.named_parameters()],
        "buffers": [name for name, _ in net.named_buffers()],
        "modules": [name for name, _ in net.named_modules()],
        "state": list(net.state_dict()),
        "count": len(list(net.parameters())),
    }


def changes(net, side):
    """Assign and reassign, and yield what the module says after each."""
    yield described(net)
    net.scale = None
    yield described(net)
    net.scale = side.Parameter(torch.zeros(4))
    yield described(net)
    net.inner = side.Linear(1, 1)
    yield described(net)
    net.nothing = torch.ones(1)
    yield described(net)
    del net.last
    yield described(net)


def test_registration_is_torchs():
    ours, theirs = (list(changes(net_on(side), side)) for side in (scratch, nn))
    assert ours == theirs
    assert len({str(each) for each in ours}) == len(ours)  # each change can be seen


def test_state_dicts_are_interchangeable():
    ours, theirs = net_on(scratch), net_on(nn)
    assert all(torch.equal(v, theirs.state_dict()[k]) for k, v in ours.state_dict().items())
    theirs.inner[0].weight.data.fill_(7)
    ours.load_state_dict(theirs.state_dict())
    assert torch.equal(ours.inner[0].weight, torch.full((2, 3), 7.0))
    assert type(ours.state_dict()["scale"]) is torch.Tensor
    ours.inner[0].weight.data.fill_(8)
    theirs.load_state_dict(ours.state_dict())
    assert theirs.inner[0].weight[0, 0] == 8


@pytest.mark.parametrize(
    ("state", "names"),
    [
        ({"weight": torch.zeros(2, 3)}, "bias"),
        ({"weight": torch.zeros(2, 3), "bias": torch.zeros(3)}, "bias"),
        ({"weight": torch.zeros(2, 3), "bias": torch.zeros(2), "other": torch.zeros(1)}, "other"),
        ({"wieght": torch.zeros(2, 3), "bias": torch.zeros(2)}, "weight, wieght"),
    ],
)
def test_load_state_dict_says_what_does_not_fit(state, names):
    model = scratch.Linear(3, 2)
    before = model.weight.detach().clone()
    with pytest.raises(RuntimeError, match=f"shapes of Linear, and has others for {names}$"):
        model.load_state_dict(state)
    assert torch.equal(model.weight, before)


def test_a_parameter_is_a_tensor_that_requires_gradients():
    made = scratch.Parameter(source := torch.ones(2))
    assert isinstance(made, scratch.Parameter)
    assert isinstance(made, torch.Tensor)
    assert made.is_leaf
    assert made.requires_grad
    assert made.data_ptr() == source.data_ptr()
    assert type(made * 2) is torch.Tensor
    assert scratch.Parameter().shape == (0,)
    assert not scratch.Parameter(source, requires_grad=False).requires_grad


def test_train_to_and_zero_grad():
    net = net_on(scratch)
    assert [m.training for _, m in net.eval().named_modules()] == [False] * 4
    assert [m.training for _, m in net.train().named_modules()] == [True] * 4
    assert net.to(torch.float64) is net
    assert {p.dtype for p in net.parameters()} == {torch.float64}
    assert net.inner[1].num_batches_tracked.dtype == torch.int64
    assert net.inner[1].running_var.dtype == torch.float64
    assert net.to("cpu").last.dtype == torch.float64
    net = scratch.Linear(2, 1)
    net(torch.ones(2)).backward()
    net.zero_grad(set_to_none=False)
    assert torch.equal(net.weight.grad, torch.zeros(1, 2))
    net.zero_grad()
    assert net.weight.grad is None


def test_errors_of_modules():
    class Early(scratch.Module):
        def __init__(self):
            self.weight = scratch.Parameter()

    with pytest.raises(AttributeError, match=r"Early must call super\(\).__init__\(\) .* 'weight'"):
        Early()
    with pytest.raises(NotImplementedError, match="Module must define forward"):
        scratch.Module()(1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda nn: nn.Conv2d(3, 4, 1, groups=2), "groups must divide .* got 2 of 3 and 4"),
        (lambda nn: nn.Dropout(1.5), r"between 0 and 1, got 1\.5"),
    ],
)
def test_errors_of_layers(make, message):
    with pytest.raises(ValueError, match=message):
        make(scratch)
    with pytest.raises(ValueError, match=r"."):
        make(nn)


def test_errors_of_functions():
    x = torch.ones(1, 1, 3, 3)
    with pytest.raises(ValueError, match="padding must be at most half of 2, got 2"):
        scratch.avg_pool2d(x, 2, padding=2)
    with pytest.raises(ValueError, match=r"reduction must be .* got 'max'"):
        scratch.cross_entropy(x[0, 0], torch.tensor([0, 1, 2]), reduction="max")
    with pytest.raises(IndexError, match="out of bounds"):
        scratch.cross_entropy(x[0, 0], torch.tensor([0, 1, 3]))

"""The layers and functions of `ladder.scratch` against torch: values and gradients."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from plainfit.ladder import scratch
from plainfit.ladder.scratch import functions

quick = settings(deadline=None, max_examples=40, derandomize=True, database=None)
seeds = st.integers(0, 2**16)
small = st.integers(1, 3)
sizes = st.one_of(small, st.tuples(small, small))


def pair(size):
    return size if isinstance(size, tuple) else (size, size)


def results(layer, x):
    """Return a layer's output and the gradients of its input and parameters, of uneven weights."""
    x = x.detach().requires_grad_()
    output = layer(x + 0)  # not a leaf, so that a layer may work in place
    output.backward(torch.linspace(-1, 2, output.numel(), dtype=output.dtype).view(output.shape))
    return [output, x.grad, *(p.grad for p in getattr(layer, "parameters", list)())]


def assert_same_bits(ours, theirs):
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        assert type(mine) is torch.Tensor
        torch.testing.assert_close(mine, other, rtol=0, atol=0, equal_nan=True)


def assert_close(ours, theirs):
    """Same within 1e-12 of the largest value."""
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.dtype == torch.float64
        scale = float(other.detach().abs().max()) if other.numel() else 0
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-12 * max(scale, 1))


def twins(name, *args, seed=0, **options):
    """Return our layer and torch's after the same seed; their initial values must be equal."""
    made = []
    for module in (scratch, nn):
        torch.manual_seed(seed)
        made.append(getattr(module, name)(*args, **options))
        made.append(torch.get_rng_state())
    ours, ours_state, theirs, theirs_state = made
    assert torch.equal(ours_state, theirs_state)
    assert_same_state(ours, theirs)
    return ours, theirs


def assert_same_state(ours, theirs):
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert_same_bits(list(ours.state_dict().values()), list(theirs.state_dict().values()))


@quick
@given(
    st.lists(st.integers(1, 5), max_size=3),
    st.integers(1, 70),
    st.integers(1, 70),
    st.booleans(),
    seeds,
)
def test_linear_has_the_same_bits(batch, in_features, out_features, bias, seed):
    ours, theirs = twins("Linear", in_features, out_features, bias=bias, seed=seed)
    x = torch.randn(*batch, in_features)
    assert_same_bits(results(ours, x), results(theirs, x))


@pytest.mark.parametrize("shape", [(64, 784), (4, 16, 784), (784,)])
def test_linear_adds_its_bias_within_the_product(shape):
    """With 784 inputs `x @ w.t() + b` has other bits, with fewer it mostly has the same."""
    ours, theirs = twins("Linear", 784, 10)
    x = torch.randn(shape)
    assert_same_bits(results(ours, x), results(theirs, x))


@st.composite
def convolutions(draw):
    groups = draw(small)
    options = {
        "kernel_size": draw(sizes),
        "stride": draw(sizes),
        "padding": draw(st.one_of(st.integers(0, 2), st.tuples(*[st.integers(0, 2)] * 2))),
        "dilation": draw(sizes),
        "groups": groups,
        "bias": draw(st.booleans()),
    }
    pairs = zip(pair(options["dilation"]), pair(options["kernel_size"]), strict=True)
    shape = [d * (k - 1) + 1 + draw(st.integers(0, 4)) for d, k in pairs]
    channels = (groups * draw(small), groups * draw(small))
    return channels, options, (draw(small), channels[0], *shape)


@settings(quick, max_examples=50)
@given(convolutions(), seeds)
def test_conv2d_differs_by_rounding(convolution, seed):
    channels, options, shape = convolution
    ours, theirs = twins("Conv2d", *channels, seed=seed, **options)
    x = torch.randn(shape, dtype=torch.float64)
    assert_close(results(ours.to(torch.float64), x), results(theirs.double(), x))


@st.composite
def pools(draw):
    kernel = draw(sizes)
    edges = tuple(draw(st.integers(0, k // 2)) for k in pair(kernel))
    options = {
        "kernel_size": kernel,
        "stride": draw(st.one_of(st.none(), sizes)),
        "padding": draw(st.sampled_from([edges, min(edges)])),
    }
    return options, (2, 3, *(k + draw(st.integers(0, 5)) for k in pair(kernel)))


@settings(quick, max_examples=60)
@given(pools(), seeds)
def test_avg_pool2d_has_the_same_bits(pool, seed):
    options, shape = pool
    ours, theirs = twins("AvgPool2d", **options)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    assert_same_bits(results(ours, x), results(theirs, x))


@quick
@given(
    st.one_of(small, st.tuples(*[st.one_of(st.none(), small)] * 2)),
    st.tuples(*[st.integers(1, 7)] * 2),
)
def test_adaptive_avg_pool2d_differs_by_rounding(output_size, shape):
    ours, theirs = twins("AdaptiveAvgPool2d", output_size)
    x = torch.randn(2, 3, *shape, dtype=torch.float64)
    assert_close(results(ours, x), results(theirs, x))
    one = [module.AdaptiveAvgPool2d(1) for module in (scratch, nn)]
    assert_same_bits(*(results(layer, x.float()) for layer in one))


SPECIAL = torch.tensor([-1.0, 0.0, 2.0, torch.nan, torch.inf, -torch.inf])


def test_relu_has_the_same_bits():
    ours, theirs = twins("ReLU")
    for x in (SPECIAL, torch.randn(5, 7)):
        assert_same_bits(results(ours, x), results(theirs, x))


@pytest.mark.parametrize("dims", [(), (0,), (1, 2), (0, -2)])
def test_flatten(dims):
    ours, theirs = twins("Flatten", *dims)
    x = torch.randn(2, 3, 4, 5)
    assert_same_bits(results(ours, x), results(theirs, x))


@pytest.mark.parametrize("p", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("training", [True, False])
def test_dropout_draws_the_same_bits(p, training):
    ours, theirs = twins("Dropout", p)
    seen, states = [], []
    for layer in (ours, theirs):
        torch.manual_seed(3)
        seen.append(results(layer.train(training), torch.linspace(-3, 3, 101)))
        states.append(torch.get_rng_state())
    assert_same_bits(*seen)
    assert torch.equal(*states)


@quick
@given(
    st.sampled_from([1e-5, 1e-3]),
    st.sampled_from([0.1, 0.7, 0.0, None]),
    st.booleans(),
    st.tuples(st.integers(2, 4), small, small, small),
)
def test_batch_norm2d_differs_by_rounding(eps, momentum, affine, shape):
    ours, theirs = twins("BatchNorm2d", shape[1], eps, momentum, affine)
    ours.to(torch.float64)
    theirs.double()
    for training in (True, True, False, True, False):
        x = 3 * torch.randn(shape, dtype=torch.float64) + 1
        mine, other = (results(layer.train(training), x) for layer in (ours, theirs))
        assert_close(mine, other)
        assert list(ours.state_dict()) == list(theirs.state_dict())
        for name, value in theirs.state_dict().items():
            torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-12, atol=1e-12)


def test_sequential():
    layers = [scratch.Linear(4, 3), scratch.ReLU()]
    model = scratch.Sequential(*layers)
    assert [*model] == layers
    assert model[-1] is layers[1]
    x = torch.randn(2, 4)
    assert torch.equal(model(x), torch.relu(F.linear(x, layers[0].weight, layers[0].bias)))
    assert list(model.state_dict()) == ["0.weight", "0.bias"]


def logits_and_targets(seed, shape, ignore_index):
    g = torch.Generator().manual_seed(seed)
    target = torch.randint(shape[1], shape[:1], generator=g)
    ignored = torch.rand(shape[0], generator=g) < 0.2
    return 4 * torch.randn(shape, generator=g), target.masked_fill(ignored, ignore_index)


@pytest.mark.parametrize("n", [*range(1, 41), *range(255, 259), 1000, 4097])
def test_losses_have_torchs_bits_at_every_size_of_a_batch(n):
    x, y = logits_and_targets(n, (n, 7), ignore_index=0)
    weight = torch.rand(7, generator=torch.Generator().manual_seed(n))
    smooth = {"label_smoothing": 0.1}
    for options in (
        {},
        smooth,
        {"reduction": "sum"},
        {"weight": weight},
        smooth | {"weight": weight},
    ):
        ours, theirs = (
            results(partial(each.cross_entropy, target=y, **options), x) for each in (scratch, F)
        )
        assert_same_bits(ours, theirs)
    for name, options in (("cross_entropy", {}), ("cross_entropy", smooth), ("nll_loss", {})):
        ours, theirs = (
            results(partial(getattr(each, name), target=y, **options), x) for each in (functions, F)
        )
        assert_same_bits(ours, theirs)


@settings(quick, max_examples=60)
@given(st.integers(1, 70), st.integers(2, 12), seeds)
def test_cross_entropy_without_some_rows_has_torchs_gradient(n, classes, seed):
    """In torch's sum a group is longer where its last row is ignored, so values may differ."""
    x, y = logits_and_targets(seed, (n, classes), ignore_index=-100)
    y[0] = 1  # one row at least
    ours, theirs = (results(partial(each.cross_entropy, target=y), x) for each in (scratch, F))
    assert_same_bits(ours[1:], theirs[1:])
    torch.testing.assert_close(ours[0], theirs[0])


@settings(quick, max_examples=60)
@given(
    st.sampled_from([(5, 3), (7, 2)]),
    st.sampled_from(["mean", "sum", "none"]),
    st.sampled_from([0.0, 0.1]),
    st.sampled_from([-100, 1]),
    st.booleans(),
    seeds,
)
def test_cross_entropy_options(shape, reduction, smoothing, ignore_index, weighted, seed):
    x, y = logits_and_targets(seed, shape, ignore_index)
    options = {"reduction": reduction, "label_smoothing": smoothing, "ignore_index": ignore_index}
    options["weight"] = torch.rand(shape[1], dtype=torch.float64) if weighted else None
    ours = results(lambda z: scratch.cross_entropy(z, y, **options), x.double())
    theirs = results(lambda z: F.cross_entropy(z, y, **options), x.double())
    if not theirs[0].isnan().any():  # else every target was ignored
        assert_close(ours, theirs)
    torch.testing.assert_close(ours[0], theirs[0], equal_nan=True, rtol=1e-12, atol=1e-12)

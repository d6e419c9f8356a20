"""The data of `plainfit.ladder.scratch` against torch's: the same batches, the same draws."""

from collections import OrderedDict, namedtuple
from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils import data

from plainfit.ladder import scratch

quick = settings(deadline=None, max_examples=60, derandomize=True, database=None)
Pair = namedtuple("Pair", "x y")


def same(mine, other):
    """Compare values, dtypes and containers; a mapping of any type equals a dict."""
    if isinstance(other, torch.Tensor):
        return mine.dtype == other.dtype and torch.equal(mine, other)
    if isinstance(other, dict):
        return list(mine) == list(other) and all(same(mine[key], other[key]) for key in other)
    if isinstance(other, list | tuple):
        pairs = zip(mine, other, strict=True)
        return type(mine) is type(other) and all(same(*pair) for pair in pairs)
    return mine == other


def rows(n):
    return torch.arange(2 * n).view(n, 2).float(), torch.arange(n)


def epochs_of(module, make, epochs, seed, batches=None):
    """Return all batches of some epochs, and both generators' states afterwards."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed + 1)
    loader = make(module, generator)
    seen = [list(islice(loader, batches)) for _ in range(epochs)]
    return seen, [torch.get_rng_state(), generator.get_state()]


def assert_same_epochs(make, epochs=2, seed=0, batches=None):
    ours, mine = epochs_of(scratch, make, epochs, seed, batches)
    theirs, other = epochs_of(data, make, epochs, seed, batches)
    assert same(ours, theirs)
    assert same(mine, other)
    return ours


@quick
@given(
    n=st.integers(1, 20),
    batch_size=st.integers(1, 8),
    shuffle=st.sampled_from([None, False, True]),
    drop_last=st.booleans(),
    own_generator=st.booleans(),
    epochs=st.integers(1, 3),
    batches=st.one_of(st.none(), st.integers(0, 3)),
    seed=st.integers(0, 2**16),
)
def test_batches_and_draws_are_the_same(
    n, batch_size, shuffle, drop_last, own_generator, epochs, batches, seed
):
    def make(module, generator):
        loader = module.DataLoader(
            module.TensorDataset(*rows(n)),
            batch_size,
            shuffle,
            drop_last=drop_last,
            generator=generator if own_generator else None,
        )
        assert len(loader) == (n // batch_size if drop_last else -(-n // batch_size))
        return loader

    assert_same_epochs(make, epochs, seed, batches)


@pytest.mark.parametrize("drop_last", [False, True])
def test_batch_sampler_of_any_iterable(drop_last):
    make = [m.BatchSampler([3, 1, 4, 1, 5], 2, drop_last) for m in (scratch, data)]
    assert [*make[0]] == [*make[1]]
    assert len(make[0]) == len(make[1]) == len([*make[0]])


def test_the_base_seed_is_drawn_when_the_iteration_begins():
    def draws(module):
        torch.manual_seed(0)
        iterator = iter(module.DataLoader(range(3), shuffle=True))
        between = torch.rand(2)
        return between, list(iterator), torch.rand(2)

    assert same(draws(scratch), draws(data))


def test_another_collate_fn():
    def make(module, generator):
        return module.DataLoader(range(10, 13), 2, collate_fn=sum, generator=generator)

    assert assert_same_epochs(make) == [[21, 12], [21, 12]]


def test_the_sampler_can_be_replaced():
    loader = scratch.DataLoader(range(4), batch_size=3, shuffle=True)
    assert type(loader.batch_sampler.sampler) is scratch.RandomSampler
    loader.batch_sampler.sampler = [3, 2, 1, 0]
    assert same(list(loader), [torch.tensor([3, 2, 1]), torch.tensor([0])])


def test_tensor_dataset():
    x, y = rows(4)
    ours, theirs = scratch.TensorDataset(x, y), data.TensorDataset(x, y)
    assert len(ours) == 4
    for index in (0, -1, slice(1, 3), torch.tensor([2, 0])):
        assert same(ours[index], theirs[index])
    with pytest.raises(ValueError, match=r"same number of rows, got \[4, 3\]"):
        scratch.TensorDataset(x, y[:3])


numbers = st.one_of(st.integers(-9, 9), st.floats(-9, 9), st.booleans(), st.text(max_size=2))
structures = st.recursive(
    st.one_of(numbers, st.just(torch.zeros(2)), st.binary(max_size=2)),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3),
        st.tuples(inner, inner),
        st.builds(Pair, inner, inner),
        st.dictionaries(st.sampled_from("abc"), inner, max_size=2),
        st.builds(lambda value: OrderedDict(a=value), inner),
    ),
    max_leaves=6,
)


def perturbed(sample, k):
    """Return a sample of the same structure with other tensors and integers."""
    if isinstance(sample, torch.Tensor):
        return sample + k
    if isinstance(sample, dict):
        return {key: perturbed(value, k) for key, value in sample.items()}
    if isinstance(sample, list | tuple):
        parts = [perturbed(value, k) for value in sample]
        return type(sample)(*parts) if hasattr(sample, "_fields") else type(sample)(parts)
    return sample + k if type(sample) is int else sample


@settings(quick, max_examples=50)
@given(structures, st.integers(1, 3))
def test_default_collate(sample, n):
    batch = [perturbed(sample, k) for k in range(n)]
    assert same(scratch.default_collate(batch), data.default_collate(batch))


def test_errors():
    with pytest.raises(TypeError, match=r"samples must be tensors, .* got object; pass a collate"):
        scratch.default_collate([object()])
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        scratch.DataLoader(range(3), 0)

"""Loaders: which batches, in which order, and what iterating leaves alone."""

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from plainfit import ImageDataset, TensorLoader, WrappedDataLoader, get_data
from plainfit.common.seeding import stream
from plainfit.data.datasets import bytes_to_floats, resident
from plainfit.data.loaders import BatchSampler, make_loader


def numbered(n: int) -> TensorDataset:
    return TensorDataset(torch.arange(n).float(), torch.arange(n))


def rows_of(dl) -> list[int]:
    return [row for _, yb in dl for row in yb.tolist()]


class Own(Dataset):
    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        return torch.tensor(float(index)), index


class Stream(IterableDataset):
    def __iter__(self):
        return iter([(torch.tensor(float(i)), i) for i in range(10)])


class Doubled(TensorDataset):
    def __getitem__(self, index):
        xb, yb = super().__getitem__(index)
        return 2 * xb, yb


@pytest.mark.parametrize("epoch", [0, 1, 7])
def test_the_order_is_a_function_of_seed_and_epoch_only(epoch):
    dl = TensorLoader(numbered(50), 8, shuffle=True, seed=3)
    dl.epoch = epoch
    torch.rand(5)
    expected = torch.randperm(50, generator=stream(3, "order", epoch)).tolist()
    assert rows_of(dl) == expected
    dl.epoch = epoch
    assert rows_of(dl) == expected


def test_epochs_and_seeds_differ_and_keep_every_row():
    dl = TensorLoader(numbered(50), 8, shuffle=True)
    epochs = [rows_of(dl) for _ in range(3)]
    epochs.append(rows_of(TensorLoader(numbered(50), 8, shuffle=True, seed=1)))
    assert len({tuple(rows) for rows in epochs}) == 4
    assert all(sorted(rows) == list(range(50)) for rows in epochs)
    assert dl.epoch == 3


def test_the_batch_size_does_not_change_the_order():
    orders = {bs: rows_of(TensorLoader(numbered(50), bs, shuffle=True)) for bs in (1, 7, 64)}
    assert orders[1] == orders[7] == orders[64]


@pytest.mark.parametrize("make", [numbered, Own], ids=["memory", "DataLoader"])
def test_peeking_changes_nothing(make):
    dl, _ = get_data(make(50), make(50), 8)
    untouched, _ = get_data(make(50), make(50), 8)
    for _ in range(3):
        next(iter(dl))
        for count, _batch in enumerate(dl):
            if count == 2:
                break
    assert [rows_of(dl) for _ in range(2)] == [rows_of(untouched) for _ in range(2)]


def test_two_iterators_at_once_do_not_disturb_each_other():
    dl = TensorLoader(numbered(20), 4, shuffle=True)
    pairs = list(zip(dl, dl, strict=True))
    assert all(torch.equal(a[1], b[1]) for a, b in pairs)
    assert dl.epoch == 1


@pytest.mark.parametrize(
    ("n", "bs", "drop_last", "sizes"),
    [
        (10, 4, False, [4, 4, 2]),
        (10, 4, True, [4, 4]),
        (8, 4, False, [4, 4]),
        (8, 4, True, [4, 4]),
        (3, 4, False, [3]),
        (3, 4, True, []),
    ],
)
@pytest.mark.parametrize("make", [numbered, Own], ids=["memory", "DataLoader"])
def test_sizes_of_batches_and_len(make, n, bs, drop_last, sizes):
    dl = make_loader(make(n), bs, True, drop_last=drop_last)
    assert [len(yb) for _, yb in dl] == sizes
    assert len(dl) == len(sizes)


def test_validation_is_in_order_at_twice_the_batch_size_and_whole():
    train_dl, valid_dl = get_data(numbered(10), numbered(11), 4, drop_last=True)
    assert [len(yb) for _, yb in train_dl] == [4, 4]
    assert [len(yb) for _, yb in valid_dl] == [8, 3]
    assert rows_of(valid_dl) == list(range(11)) == rows_of(valid_dl)


def test_batches_are_copies():
    dataset = numbered(8)
    xb, _ = next(iter(TensorLoader(dataset, 4)))
    xb.zero_()
    assert dataset.tensors[0].tolist() == list(range(8))


def test_a_dataset_of_three_tensors_gives_batches_of_three():
    x = torch.arange(5)
    first = next(iter(TensorLoader(TensorDataset(x, x + 1, x + 2), 2)))
    assert [part.tolist() for part in first] == [[0, 1], [1, 2], [2, 3]]


def test_the_stock_dataloader_has_the_same_order():
    loaders = [get_data(make(50), make(30), 8, seed=4) for make in (numbered, Own)]
    assert isinstance(loaders[0][0], TensorLoader)
    assert isinstance(loaders[1][0], DataLoader)
    for _ in range(3):
        assert rows_of(loaders[0][0]) == rows_of(loaders[1][0])
        assert rows_of(loaders[0][1]) == rows_of(loaders[1][1])


@pytest.mark.enable_socket  # workers hand tensors over through a Unix socket
def test_worker_processes_do_not_change_the_order():
    alone, _ = get_data(Own(30), Own(4), 4, seed=2)
    with_workers, _ = get_data(Own(30), Own(4), 4, seed=2, num_workers=2)
    for _ in range(2):
        assert rows_of(alone) == rows_of(with_workers)


@pytest.mark.parametrize("make", [numbered, Own], ids=["memory", "DataLoader"])
def test_iterating_draws_nothing_from_the_global_generator(make):
    train_dl, valid_dl = get_data(make(20), make(20), 4)
    before = torch.get_rng_state()
    list(train_dl), list(valid_dl), list(train_dl)
    assert torch.equal(torch.get_rng_state(), before)
    list(DataLoader(make(20), 4, shuffle=True))
    assert not torch.equal(torch.get_rng_state(), before)  # the control: torch's own does


def test_a_subclass_reads_its_rows_in_its_own_way():
    dataset = Doubled(torch.arange(6).float(), torch.arange(6))
    dl = make_loader(dataset, 4, False)
    assert isinstance(dl, DataLoader)
    assert torch.cat([xb for xb, _ in dl]).tolist() == [0, 2, 4, 6, 8, 10]


def test_an_iterable_dataset_is_read_in_its_own_order():
    dl, _ = get_data(Stream(), Stream(), 4)
    assert rows_of(dl) == list(range(10))


@pytest.mark.parametrize("bs", [0, -3, 2.5, "8"])
def test_a_bad_batch_size_is_named(bs):
    with pytest.raises(ValueError, match=f"must be a whole number, at least 1, got {bs!r}"):
        get_data(numbered(4), numbered(4), bs)


@pytest.mark.parametrize("make", [numbered, Own], ids=["memory", "DataLoader"])
def test_a_batch_size_of_numpy(make):
    dl, _ = get_data(make(5), make(5), np.int64(2), shuffle=False)
    assert [len(xb) for xb, _ in dl] == [2, 2, 1]


@pytest.mark.parametrize("make", [numbered, Own], ids=["memory", "DataLoader"])
def test_an_empty_dataset_is_refused(make):
    with pytest.raises(ValueError, match="at least one sample, got none"):
        get_data(make(4), make(0), 2)


@pytest.mark.enable_socket  # workers hand tensors over through a Unix socket
def test_workers_that_read_ahead_do_not_move_the_epoch():
    untouched, _ = get_data(Own(6), Own(4), 4)
    dl, _ = get_data(Own(6), Own(4), 4, num_workers=2)
    next(iter(dl))
    assert [rows_of(dl) for _ in range(2)] == [rows_of(untouched) for _ in range(2)]


def test_the_sampler_gives_the_batches_of_its_epoch_with_their_addresses():
    sampler = BatchSampler(range(10), 4, seed=0, shuffle=True, drop_last=False)
    first = list(sampler)
    assert list(sampler) == first
    assert [address for *address, _ in first] == [[0, 0], [0, 1], [0, 2]]
    sampler.epoch = 1
    rows = [row for _, _, batch in sampler for row in batch]
    assert rows == torch.randperm(10, generator=stream(0, "order", 1)).tolist()
    assert rows != [row for _, _, batch in first for row in batch]
    assert len(sampler) == 3


def test_image_dataset_stores_bytes_and_gives_floats():
    images = torch.arange(256, dtype=torch.uint8).view(4, 1, 8, 8)
    dataset = ImageDataset(images, torch.arange(4))
    for served in (dataset[:][0], next(iter(make_loader(dataset, 4, False)))[0]):
        assert served.dtype == torch.float32
        assert torch.equal(served, torch.arange(256).view(4, 1, 8, 8) / 256)
    assert dataset[1][0].shape == (1, 8, 8)
    assert torch.equal(dataset.tensors[0], images)


@pytest.mark.parametrize(
    ("images", "says"),
    [
        (torch.zeros(4, 1, 8, 8), r"got torch.float32 of shape \(4, 1, 8, 8\); wrap floats"),
        (torch.zeros(4, 8, 8, dtype=torch.uint8), r"got torch.uint8 of shape \(4, 8, 8\)"),
    ],
)
def test_image_dataset_takes_only_batches_of_byte_images(images, says):
    with pytest.raises(ValueError, match=says):
        ImageDataset(images, torch.arange(4))


def test_image_dataset_needs_a_label_for_each_image():
    with pytest.raises(AssertionError, match="Size mismatch"):
        ImageDataset(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.arange(3))


def test_bytes_to_floats_is_exact_and_leaves_its_input():
    xb = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(bytes_to_floats(xb).double() * 256, torch.arange(256).double())
    assert torch.equal(xb, torch.arange(256))


def test_wrapped_loader_applies_its_function_each_epoch():
    inner = TensorLoader(numbered(10), 4, shuffle=True)
    plain = TensorLoader(numbered(10), 4, shuffle=True)
    dl = WrappedDataLoader(inner, lambda xb, yb: (xb.view(-1, 1) + 1, yb))
    assert len(dl) == 3
    for _ in range(2):
        for (xb, yb), (x, y) in zip(dl, plain, strict=True):
            assert torch.equal(xb, x.view(-1, 1) + 1)
            assert torch.equal(yb, y)
    assert inner.epoch == 2


def test_a_wrapped_batch_of_parts_is_spread_and_any_other_is_passed_whole():
    def pair(*arguments):
        return arguments

    x, y = torch.arange(4.0), torch.arange(4)
    packed = pack_sequence([x, x[:2]])
    for whole in ({"x": x, "y": y}, [x, y[:2]], ["a", "b"], x, "text", packed):
        assert list(WrappedDataLoader([whole], pair)) == [(whole,)]
    for dl in (
        [(x, y)],
        [[x, y]],
        DataLoader(TensorDataset(x, y), 4),
        make_loader(Own(4), 4, False),
    ):
        [(xb, yb)] = WrappedDataLoader(dl, pair)
        assert torch.equal(xb, x)
        assert torch.equal(yb, y)
    samples = [(x[:1], 1), (x[:2], 0)]
    [batch] = WrappedDataLoader(DataLoader(samples, 2, collate_fn=list), pair)
    assert batch == (samples,)
    [batch] = WrappedDataLoader(make_loader(samples, 2, False, collate_fn=list), pair)
    assert batch == (samples,)


def test_wrapped_loader_over_a_generator_has_no_length():
    dl = WrappedDataLoader((pair for pair in [(1, 2)]), lambda xb, yb: (xb, yb))
    with pytest.raises(TypeError, match="no len"):
        len(dl)
    assert list(dl) == [(1, 2)]


def test_a_data_set_on_a_device_is_gathered_there():
    dataset = TensorDataset(torch.zeros(20, 3), torch.zeros(20))
    there = resident(dataset, torch.device("meta"), budget=1)
    xb, yb = next(iter(TensorLoader(there, 8, shuffle=True)))
    assert (xb.device.type, xb.shape, yb.device.type, yb.shape) == ("meta", (8, 3), "meta", (8,))
    images = ImageDataset(torch.zeros(20, 1, 4, 4).byte(), torch.zeros(20))
    xb, _ = next(iter(TensorLoader(resident(images, torch.device("meta"), budget=1), 8)))
    assert (xb.device.type, xb.dtype, xb.shape) == ("meta", torch.float32, (8, 1, 4, 4))


def test_what_is_too_large_or_reads_its_own_way_stays_where_it_is():
    class Own(TensorDataset):
        pass

    meta = torch.device("meta")
    large, own = TensorDataset(torch.zeros(300, 1024)), Own(torch.zeros(3))
    assert resident(large, meta, budget=1) is large
    assert resident(own, meta, budget=1) is own
    assert resident(large, meta, budget=2).tensors[0].device == meta

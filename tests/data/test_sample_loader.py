"""A data set that draws random numbers gives the same samples however it is read."""

import random

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, Subset

from plainfit import get_data
from plainfit.common.seeding import drawing_from
from plainfit.data.loaders import SampleLoader, make_loader

N, BS, EPOCHS = 11, 3, 3
STEPS = -(-N // BS)
WORKERS = [
    0,
    pytest.param(1, marks=pytest.mark.enable_socket),
    pytest.param(2, marks=pytest.mark.enable_socket),
]


class Noisy(Dataset):
    """Draws from every global generator; counts how it is read."""

    def __init__(self, n=N):
        self.n, self.reads = n, []

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        self.reads.append(index)
        noise = [torch.rand(()), np.random.rand(), random.random(), torch.initial_seed() % 1000]
        return torch.tensor([index, *noise], dtype=torch.float64), index


class NoisyMany(Noisy):
    """Reads many at once."""

    def __getitems__(self, indices):
        self.reads.append(list(indices))
        noise = torch.rand(len(indices)) + random.random() + np.random.rand()
        return [(torch.tensor([i, x.item()]), i) for i, x in zip(indices, noise, strict=True)]


def loader(workers=0, shuffle=True, seed=4, kind=Noisy):
    return make_loader(kind(), BS, shuffle, seed=seed, num_workers=workers)


def read(dl):
    return [(xb.tolist(), yb.tolist()) for xb, yb in dl]


def states():
    return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()


@pytest.fixture(scope="module")
def wanted():
    dl = loader()
    return [read(dl) for _ in range(EPOCHS)]


def test_what_is_drawn_differs_between_samples_batches_epochs_and_seeds(wanted):
    samples = [x for epoch in wanted for xb, _ in epoch for x in xb]
    assert len(samples) == N * EPOCHS
    for column in (1, 2, 3):
        assert len({x[column] for x in samples}) == N * EPOCHS
    assert read(loader(seed=5)) != wanted[0]
    assert all(sorted(y for _, yb in epoch for y in yb) == list(range(N)) for epoch in wanted)


@pytest.mark.parametrize("workers", WORKERS)
def test_any_number_of_workers_gives_the_same_samples(workers, wanted):
    dl = loader(workers)
    assert isinstance(dl, SampleLoader)
    assert (dl.num_workers, len(dl)) == (workers, STEPS)
    torch.manual_seed(99)  # whatever was drawn before
    assert [read(dl) for _ in range(EPOCHS)] == wanted
    assert dl.epoch == EPOCHS


@pytest.mark.parametrize("workers", WORKERS)
def test_every_position_can_be_sought(workers, wanted):
    dl = loader(workers)
    for epoch in (2, 0):
        for step in range(STEPS):
            dl.seek(epoch, step)
            assert read(dl) == wanted[epoch][step:]
            assert dl.epoch == epoch + 1
    assert read(dl) == wanted[1]  # the epoch after the last one, from its beginning
    dl.seek(1, STEPS)  # all is read already
    assert read(dl) == []
    assert dl.epoch == 2


@pytest.mark.parametrize("workers", WORKERS)
def test_an_epoch_that_is_left_is_read_again_the_same(workers, wanted):
    dl = loader(workers)
    for count in (1, 2):
        batches = iter(dl)
        for _ in range(count):
            next(batches)
        del batches
        assert dl.epoch == 0
    assert read(dl) == wanted[0]


@pytest.mark.parametrize("kind", [Noisy, NoisyMany])
@pytest.mark.parametrize("workers", WORKERS)
def test_the_global_generators_are_left_alone(workers, kind):
    dl = loader(workers, kind=kind)
    before = states()
    for _ in dl:
        assert states() == before
    assert states() == before


def test_they_are_left_alone_after_an_error_too():
    class Broken(Noisy):
        def __getitem__(self, index):
            super().__getitem__(index)
            raise OSError("unreadable")

    dl, before = make_loader(Broken(), BS, True), states()
    with pytest.raises(OSError, match="unreadable"):
        next(iter(dl))
    assert states() == before


def test_a_validation_pass_draws_the_same_numbers_in_every_epoch():
    dl = loader(shuffle=False)
    first = read(dl)
    assert read(dl) == first
    assert [y for _, yb in first for y in yb] == list(range(N))
    _, valid_dl = get_data(Noisy(), Noisy(), 2, seed=4)
    assert read(valid_dl) == read(valid_dl)


@pytest.mark.parametrize("workers", WORKERS)
def test_a_data_set_that_reads_many_at_once_is_asked_so(workers):
    dl = loader(workers, kind=NoisyMany)
    here = loader(0, kind=NoisyMany)
    assert read(dl) == read(here)
    inner = here.dataset.dataset
    assert [len(rows) for rows in inner.reads] == [3, 3, 3, 2]
    assert sorted(row for rows in inner.reads for row in rows) == list(range(N))


def test_a_subset_passes_its_rows_on():
    inner = NoisyMany()
    dl = make_loader(Subset(inner, [7, 2, 9, 4]), 3, False)
    assert [yb for _, yb in read(dl)] == [[7, 2, 9], [4]]
    assert inner.reads == [[7, 2, 9], [4]]


def test_without_that_each_sample_is_read_once():
    dl = loader(shuffle=False)
    read(dl)
    assert dl.dataset.dataset.reads == list(range(N))


def test_drawing_from_an_address_can_be_nested():
    def draw():
        return torch.rand(()).item(), np.random.rand(), random.random()

    with drawing_from(1, "outer", 2):
        first = draw()
        with drawing_from(1, "inner"):
            inner = draw()
        second = draw()
    with drawing_from(1, "outer", 2):
        assert [draw(), draw()] == [first, second]
    with drawing_from(1, "inner"):
        assert draw() == inner
    assert len({*first, *second, *inner}) == 9

"""A training that was stopped and resumed ends with the bits of one that never was."""

import itertools

import pytest

from trainings import LOADERS, OPTIMIZERS, StopAt, differences, train

STEPS = 15  # 3 epochs of 5
STOPS = [(3,), (5, 8), (1, 7, 13)]  # once, twice and three times; 5 is the end of an epoch


@pytest.fixture(scope="module")
def whole():
    """The outcome of a training that never stops, by its options."""
    outcomes = {}

    def of(**options):
        key = tuple(options.items())
        if key not in outcomes:
            outcomes[key] = train(None, **options)
        return outcomes[key]

    return of


def stopped_at(folder, *steps, **options):
    """Stop after each of these steps, each time in a new model and optimizer; then finish."""
    for number, step in enumerate(steps):
        train(folder, resume=number > 0, callbacks=[StopAt(step)], **options)
    return train(folder, resume=True, **options)


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_stopped_at_every_step(tmp_path, whole, step):
    assert differences(whole(), stopped_at(tmp_path, step)) == []


def check(folder, whole, loader, optimizer, steps):
    options = {"loader": loader, "optimizer": optimizer, "extras": False}
    assert differences(whole(**options), stopped_at(folder, *steps, **options)) == []


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.enable_socket
def test_stopped_twice_with_every_loader(tmp_path, whole, loader):
    check(tmp_path, whole, loader, "adamw", (5, 8))


@pytest.mark.parametrize("steps", STOPS)
def test_stopped_once_twice_and_three_times(tmp_path, whole, steps):
    check(tmp_path, whole, "samples", "momentum", steps)


@pytest.mark.soak
@pytest.mark.parametrize(
    ("loader", "optimizer", "steps"), [*itertools.product(LOADERS, OPTIMIZERS, STOPS)]
)
@pytest.mark.enable_socket
def test_every_loader_optimizer_and_number_of_stops(tmp_path, whole, loader, optimizer, steps):
    check(tmp_path, whole, loader, optimizer, steps)

"""A training that was stopped and resumed ends with the bits of one that never was."""

import pytest

from trainings import LOADERS, StopAt, differences, train

STEPS = 15  # 3 epochs of 5


def stopped_at(folder, *steps, **options):
    """Stop after each of these steps, each time in a new model and optimizer; then go on."""
    for number, step in enumerate(steps):
        train(folder, resume=number > 0, callbacks=[StopAt(step)], **options)
    return train(folder, resume=True, **options)


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_stopped_at_every_step(tmp_path, step):
    assert differences(train(None), stopped_at(tmp_path, step)) == []


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("optimizer", ["momentum", "adamw"])
@pytest.mark.parametrize("steps", [(3,), (5, 8), (1, 7, 13)])
@pytest.mark.enable_socket
def test_once_twice_and_three_times_with_every_loader(tmp_path, loader, optimizer, steps):
    options = {"loader": loader, "optimizer": optimizer, "extras": False}
    assert differences(train(None, **options), stopped_at(tmp_path, *steps, **options)) == []

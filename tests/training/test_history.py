"""The rows of a history: which epoch is the best."""

import math

import pytest

from plainfit import History
from plainfit.common.errors import ConfigError
from plainfit.training.history import best_epoch

NAN, INF = math.nan, math.inf


def losses(*values):
    return [{"epoch": epoch, "valid_loss": value} for epoch, value in enumerate(values)]


@pytest.mark.parametrize(
    ("values", "best"),
    [
        ((), None),
        ((NAN,), None),
        ((INF, -INF), None),
        ((NAN, 2.0, 1.0, 1.0, NAN), 2),
        ((INF, 2.0), 1),
        ((3.0, 1.0, 2.0), 1),
    ],
)
def test_the_best_epoch_is_the_first_lowest_finite_loss(values, best):
    assert best_epoch(losses(*values)) == best
    history = History()
    history.epochs += losses(*values)
    assert history.best() == (None if best is None else history[best])


def test_the_monitor_decides_the_mode_unless_it_is_given():
    rows = [{"train_loss": 1.0, "accuracy": 0.5}, {"train_loss": 2.0, "accuracy": 0.7}]
    assert best_epoch(rows) == 0
    assert best_epoch(rows, "accuracy") == 1
    assert best_epoch(rows, "accuracy", "min") == 0
    assert best_epoch(rows, mode="max") == 1


def test_an_unknown_column_or_mode_is_an_error():
    with pytest.raises(ConfigError, match=r"got 'acuracy'; did you mean 'accuracy'\?"):
        best_epoch([{"accuracy": 0.5}], "acuracy")
    with pytest.raises(ConfigError, match="mode must be 'min' or 'max', got 'up'"):
        best_epoch(losses(1.0), mode="up")

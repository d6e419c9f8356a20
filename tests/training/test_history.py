"""The rows of a history: which epoch is the best."""

import math

import pytest
import torch

from plainfit import History
from plainfit.common.errors import ConfigError
from plainfit.training.history import best_epoch, mode_by_name, read

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


@pytest.mark.parametrize(
    ("mode", "names"),
    [
        (
            "min",
            "valid_loss val_rmse wer CharErrorRate nll bce brier_score cross_entropy log_loss "
            "mae_0 negative_log_likelihood error_rate MeanSquaredError KLDivergence "
            "loss_valid kl_loss",
        ),
        (
            "max",
            "acc acc@5 top5_accuracy accuracy_top5 top_5_accuracy token_accuracy valid_acc "
            "f1_macro MulticlassF1Score "
            "multiclassaccuracy MulticlassAccuracy BinaryAUROC roc_auc_score r2 "
            "R2Score mIoU MeanIoU MulticlassJaccardIndex mAP50-95 average_precision log_likelihood "
            "dice_score PearsonCorrCoef SacreBLEUScore rougeL recall_at_5",
        ),
        (
            None,
            "score inaccuracy 1-accuracy neg_mean_squared_error false_positive_rate hits seconds "
            "loss_reduction accuracy_std negative_recall misclassification learning_rate quality",
        ),
    ],
)
def test_the_last_words_of_a_name_say_which_values_are_better(mode, names):
    assert {name: mode_by_name(name) for name in names.split()} == dict.fromkeys(
        names.split(), mode
    )


def test_a_given_mode_comes_first_then_that_of_the_metric():
    history = History()
    history.epochs += [{"f1": 1.0, "x": 1.0}, {"f1": 2.0, "x": 2.0}]
    assert history.best("f1") == history[1]
    history.modes = {"f1": "min", "x": "max"}
    assert history.best("f1") == history[0]
    assert history.best("x") == history[1]
    assert history.best("f1", "max") == history[1]
    with pytest.raises(ConfigError, match=r"values of 'x' are better: pass mode='min' or mode='ma"):
        best_epoch([{"x": 1.0}], "x")


def test_values_of_an_accelerator_are_read_among_floats():
    """As in an epoch that is partly a program; a float is not rounded to a tensor's type."""
    assert read([torch.tensor(1.5), 0.1, torch.tensor([2.0]), 0.3]) == [1.5, 0.1, 2.0, 0.3]
    assert read([0.1]) == [0.1]

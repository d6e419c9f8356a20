"""The callbacks; each is also a name of `plainfit`, such as `plainfit.EarlyStopping`."""

from plainfit.training.callbacks.checkpointing import BestWeights, Checkpointing
from plainfit.training.callbacks.observers import (
    ActivationStatistics,
    GradientStatistics,
    JsonLinesLog,
    ProgressBar,
    StepLog,
)
from plainfit.training.callbacks.optimization import (
    Averaging,
    GradientAccumulation,
    GradientClipping,
    LearningRate,
    LossScaling,
    TorchScheduler,
    Unfreezing,
)
from plainfit.training.callbacks.stopping import (
    EarlyStopping,
    NonFiniteGuard,
    OverfitOneBatch,
    TimeLimit,
)
from plainfit.training.callbacks.tracking import Tracking

__all__ = [
    "ActivationStatistics",
    "Averaging",
    "BestWeights",
    "Checkpointing",
    "EarlyStopping",
    "GradientAccumulation",
    "GradientClipping",
    "GradientStatistics",
    "JsonLinesLog",
    "LearningRate",
    "LossScaling",
    "NonFiniteGuard",
    "OverfitOneBatch",
    "ProgressBar",
    "StepLog",
    "TimeLimit",
    "TorchScheduler",
    "Tracking",
    "Unfreezing",
]

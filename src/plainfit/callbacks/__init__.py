"""What can be done beside a training: `from plainfit.callbacks import Averaging`."""

from plainfit.callbacks.averaging import Averaging
from plainfit.callbacks.checkpointing import BestWeights, Checkpointing
from plainfit.callbacks.finite import NonFiniteGuard
from plainfit.callbacks.gradients import GradientAccumulation, GradientClipping
from plainfit.callbacks.logs import JsonLinesLog, StepLog
from plainfit.callbacks.precision import LossScaling
from plainfit.callbacks.progress import ProgressBar
from plainfit.callbacks.rates import LearningRate, TorchScheduler
from plainfit.callbacks.statistics import ActivationStatistics, GradientStatistics
from plainfit.callbacks.stopping import EarlyStopping, OverfitOneBatch, TimeLimit
from plainfit.callbacks.tracking import Tracking
from plainfit.callbacks.unfreezing import Unfreezing

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

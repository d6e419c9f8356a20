"""What can be done beside a training: `from plainfit.training.callbacks import Averaging`."""

from plainfit.training.callbacks.averaging import Averaging
from plainfit.training.callbacks.checkpointing import BestWeights, Checkpointing
from plainfit.training.callbacks.finite import NonFiniteGuard
from plainfit.training.callbacks.gradients import GradientAccumulation, GradientClipping
from plainfit.training.callbacks.logs import JsonLinesLog, StepLog
from plainfit.training.callbacks.precision import LossScaling
from plainfit.training.callbacks.progress import ProgressBar
from plainfit.training.callbacks.rates import LearningRate, TorchScheduler
from plainfit.training.callbacks.statistics import ActivationStatistics, GradientStatistics
from plainfit.training.callbacks.stopping import EarlyStopping, OverfitOneBatch, TimeLimit
from plainfit.training.callbacks.tracking import Tracking
from plainfit.training.callbacks.unfreezing import Unfreezing

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

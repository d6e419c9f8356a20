"""The callbacks; each is also a name of `plainfit`, such as `plainfit.EarlyStopping`."""

from plainfit.training.callbacks.checkpointing import BestWeights as BestWeights
from plainfit.training.callbacks.checkpointing import Checkpointing as Checkpointing
from plainfit.training.callbacks.observers import ActivationStatistics as ActivationStatistics
from plainfit.training.callbacks.observers import GradientStatistics as GradientStatistics
from plainfit.training.callbacks.observers import JsonLinesLog as JsonLinesLog
from plainfit.training.callbacks.observers import ProgressBar as ProgressBar
from plainfit.training.callbacks.observers import StepLog as StepLog
from plainfit.training.callbacks.optimization import Averaging as Averaging
from plainfit.training.callbacks.optimization import GradientAccumulation as GradientAccumulation
from plainfit.training.callbacks.optimization import GradientClipping as GradientClipping
from plainfit.training.callbacks.optimization import LearningRate as LearningRate
from plainfit.training.callbacks.optimization import LossScaling as LossScaling
from plainfit.training.callbacks.optimization import TorchScheduler as TorchScheduler
from plainfit.training.callbacks.optimization import Unfreezing as Unfreezing
from plainfit.training.callbacks.stopping import EarlyStopping as EarlyStopping
from plainfit.training.callbacks.stopping import NonFiniteGuard as NonFiniteGuard
from plainfit.training.callbacks.stopping import OverfitOneBatch as OverfitOneBatch
from plainfit.training.callbacks.stopping import TimeLimit as TimeLimit
from plainfit.training.callbacks.tracking import Tracking as Tracking

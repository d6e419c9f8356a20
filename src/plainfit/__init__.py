"""plainfit: train a PyTorch model in three lines, and see exactly what they do.

    import plainfit as pf, torch.nn.functional as F

    train_dl, valid_dl = pf.get_data(train_ds, valid_ds, bs=64)
    model, opt = pf.get_model("cnn", lr=0.1, momentum=0.9)
    pf.fit(2, model, F.cross_entropy, opt, train_dl, valid_dl)

The names below load on first use, so that `import plainfit` and `plainfit --help` stay light
(docs/decisions/0002-lazy-package.md).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from plainfit.common import __version__ as __version__

_NAMES = {  # of each module
    "common.errors": "PlainfitError",
    "data.datasets": "ImageDataset",
    "data.loaders": "TensorLoader WrappedDataLoader get_data",
    "data.open_data": "open_data",
    "data.splits": "DataSplits",
    "estimators": "PlainfitClassifier PlainfitRegressor",
    "models.build": "get_model",
    "models.networks": "CompactCNN Lambda LogisticRegression MLP MnistCNN ResNet",
    "runs.fine_tuning": "fine_tune",
    "runs.folder": "load_run",
    "runs.inference": "evaluate predict",
    "training.callbacks.checkpointing": "BestWeights Checkpointing",
    "training.callbacks.observers": (
        "ActivationStatistics GradientStatistics JsonLinesLog ProgressBar StepLog"
    ),
    "training.callbacks.optimization": (
        "Averaging GradientAccumulation GradientClipping LearningRate LossScaling "
        "TorchScheduler Unfreezing"
    ),
    "training.callbacks.stopping": "EarlyStopping NonFiniteGuard OverfitOneBatch TimeLimit",
    "training.callbacks.tracking": "Tracking",
    "training.history": "History",
    "training.hooks": "Callback",
    "training.loop": "fit",
    "training.lr_finder": "lr_find",
    "training.metrics": "accuracy",
    "training.step": "loss_batch",
    "training.validation": "validate",
    "tuning.study": "tune",
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = [*sorted(_HOMES), "__version__"]

if TYPE_CHECKING:
    from plainfit.common.errors import PlainfitError as PlainfitError
    from plainfit.data.datasets import ImageDataset as ImageDataset
    from plainfit.data.loaders import TensorLoader as TensorLoader
    from plainfit.data.loaders import WrappedDataLoader as WrappedDataLoader
    from plainfit.data.loaders import get_data as get_data
    from plainfit.data.open_data import open_data as open_data
    from plainfit.data.splits import DataSplits as DataSplits
    from plainfit.estimators import PlainfitClassifier as PlainfitClassifier
    from plainfit.estimators import PlainfitRegressor as PlainfitRegressor
    from plainfit.models.build import get_model as get_model
    from plainfit.models.networks import MLP as MLP
    from plainfit.models.networks import CompactCNN as CompactCNN
    from plainfit.models.networks import Lambda as Lambda
    from plainfit.models.networks import LogisticRegression as LogisticRegression
    from plainfit.models.networks import MnistCNN as MnistCNN
    from plainfit.models.networks import ResNet as ResNet
    from plainfit.runs.fine_tuning import fine_tune as fine_tune
    from plainfit.runs.folder import load_run as load_run
    from plainfit.runs.inference import evaluate as evaluate
    from plainfit.runs.inference import predict as predict
    from plainfit.training.callbacks.checkpointing import BestWeights as BestWeights
    from plainfit.training.callbacks.checkpointing import Checkpointing as Checkpointing
    from plainfit.training.callbacks.observers import ActivationStatistics as ActivationStatistics
    from plainfit.training.callbacks.observers import GradientStatistics as GradientStatistics
    from plainfit.training.callbacks.observers import JsonLinesLog as JsonLinesLog
    from plainfit.training.callbacks.observers import ProgressBar as ProgressBar
    from plainfit.training.callbacks.observers import StepLog as StepLog
    from plainfit.training.callbacks.optimization import Averaging as Averaging
    from plainfit.training.callbacks.optimization import (
        GradientAccumulation as GradientAccumulation,
    )
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
    from plainfit.training.history import History as History
    from plainfit.training.hooks import Callback as Callback
    from plainfit.training.loop import fit as fit
    from plainfit.training.lr_finder import lr_find as lr_find
    from plainfit.training.metrics import accuracy as accuracy
    from plainfit.training.step import loss_batch as loss_batch
    from plainfit.training.validation import validate as validate
    from plainfit.tuning.study import tune as tune


def __getattr__(name: str) -> Any:
    """Load a public name from its module the first time it is used."""
    if name not in _HOMES:
        from plainfit.common.errors import near_miss

        raise AttributeError(f"plainfit has no {name!r}{near_miss(name, _HOMES)}")
    value = getattr(import_module(f"plainfit.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__

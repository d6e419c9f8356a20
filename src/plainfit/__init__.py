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

_HOMES = {
    "Callback": "training.hooks",
    "CompactCNN": "models.networks",
    "DataSplits": "data.splits",
    "History": "training.history",
    "ImageDataset": "data.loaders",
    "Lambda": "models.networks",
    "LogisticRegression": "models.networks",
    "MLP": "models.networks",
    "MnistCNN": "models.networks",
    "PlainfitClassifier": "estimators",
    "PlainfitError": "common.errors",
    "PlainfitRegressor": "estimators",
    "ResNet": "models.networks",
    "TensorLoader": "data.loaders",
    "WrappedDataLoader": "data.wrapping",
    "accuracy": "training.metrics",
    "fine_tune": "runs.fine_tuning",
    "fit": "training.loop",
    "get_data": "data.loaders",
    "get_model": "models.build",
    "lr_find": "training.lr_finder",
    "loss_batch": "training.loop",
    "open_data": "data.open_data",
    "tune": "tuning.study",
    "validate": "training.loop",
}

__all__ = [*sorted(_HOMES), "__version__"]

if TYPE_CHECKING:
    from plainfit.common.errors import PlainfitError as PlainfitError
    from plainfit.data.loaders import ImageDataset as ImageDataset
    from plainfit.data.loaders import TensorLoader as TensorLoader
    from plainfit.data.loaders import get_data as get_data
    from plainfit.data.open_data import open_data as open_data
    from plainfit.data.splits import DataSplits as DataSplits
    from plainfit.data.wrapping import WrappedDataLoader as WrappedDataLoader
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
    from plainfit.training.history import History as History
    from plainfit.training.hooks import Callback as Callback
    from plainfit.training.loop import fit as fit
    from plainfit.training.loop import loss_batch as loss_batch
    from plainfit.training.loop import validate as validate
    from plainfit.training.lr_finder import lr_find as lr_find
    from plainfit.training.metrics import accuracy as accuracy
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

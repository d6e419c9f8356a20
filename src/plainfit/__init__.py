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

__version__ = "0.1.0"

_HOMES = {
    "Callback": "hooks",
    "CompactCNN": "models",
    "DataSplits": "data.splits",
    "History": "history",
    "ImageDataset": "data.loaders",
    "Lambda": "models",
    "LogisticRegression": "models",
    "MLP": "models",
    "MnistCNN": "models",
    "PlainfitClassifier": "estimators",
    "PlainfitError": "errors",
    "PlainfitRegressor": "estimators",
    "ResNet": "models",
    "TensorLoader": "data.loaders",
    "WrappedDataLoader": "data.wrapping",
    "accuracy": "metrics",
    "fine_tune": "transfer",
    "fit": "loop",
    "get_data": "data.loaders",
    "get_model": "build",
    "lr_find": "rate_search",
    "loss_batch": "loop",
    "open_data": "data.sources",
    "tune": "tuning.study",
    "validate": "loop",
}

__all__ = [*sorted(_HOMES), "__version__"]

if TYPE_CHECKING:
    from plainfit.build import get_model as get_model
    from plainfit.data.loaders import ImageDataset as ImageDataset
    from plainfit.data.loaders import TensorLoader as TensorLoader
    from plainfit.data.loaders import get_data as get_data
    from plainfit.data.sources import open_data as open_data
    from plainfit.data.splits import DataSplits as DataSplits
    from plainfit.data.wrapping import WrappedDataLoader as WrappedDataLoader
    from plainfit.errors import PlainfitError as PlainfitError
    from plainfit.estimators import PlainfitClassifier as PlainfitClassifier
    from plainfit.estimators import PlainfitRegressor as PlainfitRegressor
    from plainfit.history import History as History
    from plainfit.hooks import Callback as Callback
    from plainfit.loop import fit as fit
    from plainfit.loop import loss_batch as loss_batch
    from plainfit.loop import validate as validate
    from plainfit.metrics import accuracy as accuracy
    from plainfit.models import MLP as MLP
    from plainfit.models import CompactCNN as CompactCNN
    from plainfit.models import Lambda as Lambda
    from plainfit.models import LogisticRegression as LogisticRegression
    from plainfit.models import MnistCNN as MnistCNN
    from plainfit.models import ResNet as ResNet
    from plainfit.rate_search import lr_find as lr_find
    from plainfit.transfer import fine_tune as fine_tune
    from plainfit.tuning.study import tune as tune


def __getattr__(name: str) -> Any:
    """Load a public name from its module the first time it is used."""
    if name not in _HOMES:
        from plainfit.errors import near_miss

        raise AttributeError(f"plainfit has no {name!r}{near_miss(name, _HOMES)}")
    value = getattr(import_module(f"plainfit.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__

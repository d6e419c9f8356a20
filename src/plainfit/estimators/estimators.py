"""scikit-learn's estimators: arrays and data frames in, `fit`, `predict`, `score`.

They make the tutorial's three lines out of their parameters, and nothing else: `get_data`,
`get_model`, `fit` (docs/decisions/0017-scikit-learn.md).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from numbers import Integral
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from plainfit.common.devices import cpu_threads, device_of, threads_for
from plainfit.common.errors import ConfigError
from plainfit.data.loaders import ImageDataset, make_loader, resident
from plainfit.estimators.saving import InFile
from plainfit.models.build import get_model
from plainfit.runs.assembly import check_outputs, transformers
from plainfit.runs.settings import RunConfig
from plainfit.training.callbacks import EarlyStopping
from plainfit.training.callbacks.stopping import BestInMemory
from plainfit.training.loop import LossFunction, fit
from plainfit.training.metrics import Metric, accuracy

OF_MODEL = ("optimizer", "momentum", "weight_decay", "device")  # settings that get_model takes
CHECKS = {"dtype": [np.float32, np.uint8], "order": "C", "allow_nd": True}  # of scikit-learn, for X


class PlainfitEstimator(InFile):
    """What classifier and regressor share: parameters, training, a file to keep them in.

    After `fit` there are `model_`, the module, on its device and in `eval()` mode; `history_`,
    what `plainfit.fit` returned, which refers to the training data while it is there (copies and
    pickles leave that out); `input_shape_`, of one sample as the model takes it; `n_features_in_`
    and, from a data frame, `feature_names_in_`.
    """

    def __init__(
        self,
        model: str | Callable[..., nn.Module] = "mlp",
        *,
        model_args: Mapping[str, Any] | None = None,
        input_shape: Sequence[int] | None = None,
        loss: LossFunction | None = None,
        epochs: int = 50,
        batch_size: int = 64,
        optimizer: str = "adam",
        lr: float | None = None,
        momentum: float | None = None,
        weight_decay: float | None = None,
        schedule: str | None = None,
        clip: float | None = None,
        patience: int | None = None,
        validation_fraction: float = 0.15,
        threads: int | None = None,
        device: str = "auto",
        random_state: Any = 0,
        verbose: bool = False,
    ) -> None:
        """Keep the parameters; `fit` checks them.

        Args:
            model: a built-in name, `MODULE:CALLABLE`, or a class or function that returns a
                module, as for `plainfit.get_model`. Its parameter `classes` receives the number of
                classes or of targets.
            model_args: arguments for the model, by name.
            input_shape: of one sample, for flat rows of `X` and a model that takes something
                else: `(1, 8, 8)` for images in a pipeline.
            loss: `(model(xb), yb) -> mean loss`. A classifier's is the cross-entropy by default,
                of scores of shape (batch, classes) and labels, int64 of shape (batch,); a
                regressor's the mean squared error, of float32 of shape (batch, targets) both.
            epochs: passes over the training data.
            batch_size: samples in a training batch.
            optimizer: `sgd`, `adam`, `adamw` or `rmsprop`.
            lr: the learning rate; by default 0.1 for `sgd` and 0.001 for the others.
            momentum: for `sgd` (0.9 by default) and `rmsprop` (0 by default).
            weight_decay: of weights, and not of biases and norms; by default torch's own.
            schedule: the learning rate by step, by name, such as `one-cycle`.
            clip: scale gradients down to this norm.
            patience: hold out a part of the data, stop when the loss on it has not improved for so
                many epochs, and go back to the weights of the best one.
            validation_fraction: how much of the data to hold out for that; of each class as much.
            threads: of the CPU while training; by default one for small steps, else all.
            device: `auto` (an accelerator if there is one), `cpu`, `cuda`, ...
            random_state: the seed of initial values, dropout, the order of samples and what is
                held out; None for another one each time, or a `RandomState` to draw it from.
            verbose: print a line an epoch.
        """
        self.model = model
        self.model_args = model_args
        self.input_shape = input_shape
        self.loss = loss
        self.epochs = epochs
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.lr = lr
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.schedule = schedule
        self.clip = clip
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.threads = threads
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def _settings(self) -> RunConfig:
        """Return the parameters as the settings of `plainfit train`, which checks them."""
        given = self.get_params(deep=False)
        shared = {item.name for item in fields(RunConfig)} & given.keys() - {"model", "model_args"}
        seed = self.random_state
        if not isinstance(seed, Integral):
            seed = check_random_state(seed).randint(2**31)
        if given["lr"] == "auto":
            raise ConfigError("lr must be a number here, got 'auto'; plainfit.lr_find suggests one")
        try:
            return RunConfig(seed=int(seed), **{name: given[name] for name in shared})
        except ConfigError as error:  # it names options of the command
            text = re.sub(r"--([a-z-]+)", lambda found: found[1].replace("-", "_"), str(error))
            raise ConfigError(text) from error

    def _train(
        self, x: Tensor, y: Tensor, outputs: int, loss: LossFunction, metrics: Sequence[Metric]
    ) -> Self:
        """Train on samples and targets: the three lines."""
        config, best = self._settings(), BestInMemory()
        train_ds, valid_dl = self._parts(x, y, config)
        stopping = [] if config.patience is None else [EarlyStopping(config.patience), best]
        with torch.random.fork_rng(devices=[]):  # the caller's generator stays as it is
            model, opt = get_model(
                self.model,
                arguments=self.model_args,
                input_shape=x.shape[1:],
                classes=outputs,
                lr=config.rate,
                seed=config.seed,
                **{name: getattr(config, name) for name in OF_MODEL},
            )
            device = device_of(model)
            sample = train_ds[:1][0].to(device)
            on_device = resident(train_ds, device, config.memory_budget)
            train_dl = make_loader(on_device, config.batch_size, True, seed=config.seed)
            check_outputs(model, train_dl, outputs, "classes" if metrics else "targets")
            with cpu_threads(config.threads or threads_for(model, sample, config.batch_size)):
                self.history_ = fit(
                    config.epochs,
                    model,
                    self.loss or loss,
                    opt,
                    train_dl,
                    valid_dl,
                    metrics=metrics,
                    schedule=config.schedule,
                    callbacks=[*transformers(config), *stopping],
                    echo=print if self.verbose else None,
                )
        if stopping:
            model.load_state_dict(best.weights)
        self.model_ = model.eval()
        self.input_shape_ = tuple(x.shape[1:])
        return self

    def _parts(self, x: Tensor, y: Tensor, config: RunConfig) -> tuple[TensorDataset, Any]:
        """Return what is trained on, and a loader of what is held out to see when to stop."""
        if config.patience is None:
            return dataset(x, y), None
        try:
            train, valid = train_test_split(
                np.arange(len(x)),
                test_size=self.validation_fraction,
                stratify=None if y.is_floating_point() else y,
                random_state=config.seed,
            )
        except ValueError as error:
            raise ValueError(f"patience must hold out a validation_fraction: {error}") from error
        held_out = make_loader(dataset(x[valid], y[valid]), 2 * config.batch_size, False)
        return dataset(x[train], y[train]), held_out

    def _samples(self, X: NDArray[Any]) -> Tensor:  # noqa: N803  # scikit-learn's name for it
        """Return samples in the shape that the model takes: bytes for images of bytes."""
        x = torch.from_numpy(np.require(X, requirements=["C", "W"]))
        if self.input_shape is not None:
            try:
                x = x.reshape(len(x), *self.input_shape)
            except (TypeError, RuntimeError) as error:
                raise ValueError(
                    f"input_shape must be a shape, such as (1, 8, 8), with the {x[0].numel()} "
                    f"values of a row of X, got {self.input_shape!r}"
                ) from error
        return x if x.dim() == 4 else x.float()

    def _outputs(self, X: Any) -> Tensor:  # noqa: N803
        """Return what the model gives for samples: float32 on the CPU, a row for each."""
        check_is_fitted(self)
        x = self._samples(validate_data(self, X, reset=False, **CHECKS))
        if tuple(x.shape[1:]) != self.input_shape_:
            raise ValueError(
                f"samples must have the shape {self.input_shape_} of those in fit, got "
                f"{tuple(x.shape[1:])}"
            )
        batches = make_loader(dataset(x, torch.zeros(len(x))), 2 * self.batch_size, False)
        device = device_of(self.model_)
        with torch.no_grad():
            return torch.cat([self.model_(xb.to(device)).float().cpu() for xb, _ in batches])


class PlainfitClassifier(ClassifierMixin, PlainfitEstimator):  # type: ignore[misc]
    """A classifier of scikit-learn that trains a PyTorch model.

    >>> from sklearn.datasets import load_iris
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> X, y = load_iris(return_X_y=True)
    >>> pipeline = make_pipeline(StandardScaler(), PlainfitClassifier("mlp", epochs=20))
    >>> pipeline.fit(X, y).score(X, y) > 0.9
    True
    """

    def fit(self, X: Any, y: Any) -> Self:  # noqa: N803
        """Train anew.

        Args:
            X: an array or a data frame of numbers, shape (samples, features) or that of samples as
                the model takes them, such as (samples, channels, height, width). It is used as
                float32; bytes (uint8) that are images are divided by 256, as everywhere here.
            y: labels, of any type, shape (samples,); `classes_` has them in order.

        Raises:
            ValueError: if scikit-learn's checks fail, or a parameter is not possible.
            ModelError: if the model cannot be built, or does not take the data.
            NonFiniteError: if a loss is not finite.
        """
        X, y = validate_data(self, X, y, **CHECKS)  # noqa: N806
        check_classification_targets(y)
        self.classes_, numbers = np.unique(y, return_inverse=True)
        labels, classes = torch.from_numpy(numbers), len(self.classes_)
        return self._train(self._samples(X), labels, classes, F.cross_entropy, [accuracy])

    def predict_proba(self, X: Any) -> NDArray[np.float32]:  # noqa: N803
        """Return the probability of each of `classes_`: float32, shape (samples, classes)."""
        return np.asarray(self._outputs(X).softmax(dim=1))

    def predict(self, X: Any) -> NDArray[Any]:  # noqa: N803
        """Return the likeliest class of each sample: shape (samples,)."""
        likeliest = self._outputs(X).argmax(dim=1).numpy()  # says so first if it is not fitted
        return np.asarray(self.classes_[likeliest])


class PlainfitRegressor(RegressorMixin, PlainfitEstimator):  # type: ignore[misc]
    """A regressor of scikit-learn that trains a PyTorch model, for one target or several.

    Targets of a usual size train best: a `TransformedTargetRegressor` with a `StandardScaler` makes
    them so.

    >>> X = np.linspace(-1, 1, 200).reshape(-1, 1)
    >>> PlainfitRegressor(epochs=30).fit(X, X[:, 0]).predict([[0.5]]).round(1)
    array([0.5], dtype=float32)
    """

    def fit(self, X: Any, y: Any) -> Self:  # noqa: N803
        """Train anew.

        Args:
            X: as for `PlainfitClassifier`.
            y: numbers, shape (samples,) or (samples, targets), used as float32.

        Raises:
            ValueError, ModelError, NonFiniteError: as for `PlainfitClassifier`.
        """
        X, y = validate_data(self, X, y, multi_output=True, y_numeric=True, **CHECKS)  # noqa: N806
        targets = torch.tensor(np.asarray(y, np.float32)).reshape(len(y), -1)
        return self._train(self._samples(X), targets, targets.shape[1], F.mse_loss, [])

    def predict(self, X: Any) -> NDArray[np.float32]:  # noqa: N803
        """Return the targets: float32, shape (samples,) for one, else (samples, targets)."""
        out: NDArray[np.float32] = self._outputs(X).numpy()
        return out[:, 0] if out.shape[1] == 1 else out

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


def dataset(x: Tensor, y: Tensor) -> TensorDataset:
    """Return samples with their targets: bytes are images, as everywhere in plainfit."""
    return (ImageDataset if x.dtype == torch.uint8 else TensorDataset)(x, y)

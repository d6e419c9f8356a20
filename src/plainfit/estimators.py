"""Estimators for scikit-learn: arrays and data frames in, `fit`, `predict`, `score`.

They turn their parameters into the tutorial's three lines: `get_data`, `get_model`, `fit`
(docs/decisions/0017-scikit-learn.md).
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from numbers import Integral
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from plainfit.common.devices import cpu_threads, device_of, threads_for
from plainfit.common.errors import CheckpointError, ConfigError, RunError, raised_as
from plainfit.data.loaders import make_loader, resident
from plainfit.models.build import Factory, get_model, target_name
from plainfit.models.trust import code_of, remember, trusted
from plainfit.models.weights import Uncompiled
from plainfit.runs.folder import write_output
from plainfit.runs.settings import RunConfig, names_of
from plainfit.runs.train import check_outputs, optimizer_options, transformers
from plainfit.training.callbacks import EarlyStopping
from plainfit.training.checkpoints import from_bytes, pack, to_bytes
from plainfit.training.checks import fails_on_last
from plainfit.training.compiling import LossFunction
from plainfit.training.history import History
from plainfit.training.hooks import warn
from plainfit.training.loop import fit
from plainfit.training.metrics import Metric, accuracy

CHECKS = {"dtype": np.float32, "order": "C", "allow_nd": True}  # scikit-learn's, for X


class PlainfitEstimator(BaseEstimator):  # type: ignore[misc]  # scikit-learn is untyped
    """The base of classifier and regressor: parameters, training, saving and loading.

    `fit` sets `model_`, the module, on its device and in `eval()` mode; `history_`, what
    `plainfit.fit` returned, which refers to the training data (copies and pickles do not);
    `input_shape_`, of one sample as the model takes it; `divisor_`, 256 for images of bytes and 1
    for other numbers, by which `predict` divides too; `n_features_in_` and, from a data frame,
    `feature_names_in_`.
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
        drop_last: bool | None = None,
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
            input_shape: of one sample, to reshape the flat rows of `X` for the model: `(1, 8, 8)`
                for images in a pipeline.
            loss: `(model(xb), yb) -> mean loss`. A classifier's is the cross-entropy by default,
                of scores of shape (batch, classes) and labels, int64 of shape (batch,); a
                regressor's the mean squared error, of float32 of shape (batch, targets) both.
            epochs: passes over the training data.
            batch_size: samples in a training batch.
            drop_last: leave out a last training batch that is not full, other samples in each
                epoch; by default only if it has one sample and a norm of the model needs more,
                with a warning.
            optimizer: `sgd`, `adam`, `adamw` or `rmsprop`.
            lr: the learning rate; by default 0.1 for `sgd` and 0.001 for the others.
            momentum: for `sgd` (0.9 by default) and `rmsprop` (0 by default).
            weight_decay: of weights, not of biases and norms; by default torch's own.
            schedule: the learning rate by step, by name, such as `one-cycle`.
            clip: scale gradients down to this norm.
            patience: hold out a part of the data, stop when the loss on it has not improved for N
                epochs, and restore the weights of the best one.
            validation_fraction: the share of the data to hold out for that, of each class alike.
            threads: of the CPU while training; by default one for small steps, else all.
            device: `auto` (an accelerator if there is one), `cpu`, `cuda`, ...
            random_state: the seed of initial values, dropout, the order of samples and the split;
                None for another one each time, or a `RandomState` to draw it from.
            verbose: print a line for each epoch.
        """
        self.model = model
        self.model_args = model_args
        self.input_shape = input_shape
        self.loss = loss
        self.epochs = epochs
        self.batch_size = batch_size
        self.drop_last = drop_last
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
        given = self.get_params(deep=False)
        shared = set(names_of(RunConfig)) & given.keys() - {"model", "model_args", "drop_last"}
        seed = self.random_state
        if not isinstance(seed, Integral):
            seed = check_random_state(seed).randint(2**31)
        if given["lr"] == "auto":
            raise ConfigError(
                "must be a number here, got 'auto'; plainfit.lr_find suggests one", field="lr"
            )
        return RunConfig(seed=int(seed), **{name: given[name] for name in shared})

    def _train(
        self, x: Tensor, y: Tensor, outputs: int, loss: LossFunction, metrics: Sequence[Metric]
    ) -> Self:
        config = self._settings()
        train_ds, valid_dl = self._parts(x, y, config)
        stopping = []
        if config.patience is not None:
            stopping.append(EarlyStopping(config.patience, restore_best=True))
        with torch.random.fork_rng(devices=[]):  # the caller's generator stays as it is
            names = ("optimizer", "seed", "device")
            options = {name: getattr(config, name) for name in names} | optimizer_options(config)
            options |= {"input_shape": x.shape[1:], "classes": outputs}
            model, opt = get_model(self.model, arguments=self.model_args, **options)
            device = device_of(model)
            sample = train_ds[:1][0].to(device)
            on_device = resident(train_ds, device, config.memory_budget)
            train_dl: Any = make_loader(on_device, config.batch_size, True, seed=config.seed)
            train_dl.drop_last = bool(self.drop_last)
            if self.drop_last is None and (how := fails_on_last(model, train_dl)):
                train_dl.drop_last = len(train_dl) > 1  # else `fit` refuses it
                warn(f"{how} samples: each epoch leaves out one, as a norm of the model needs more")
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
        self.model_ = model.eval()
        self.input_shape_ = tuple(x.shape[1:])
        return self

    def _parts(self, x: Tensor, y: Tensor, config: RunConfig) -> tuple[TensorDataset, Any]:
        # The training set, and a loader of the samples held out for early stopping.
        if config.patience is None:
            return TensorDataset(x, y), None
        try:
            train, valid = train_test_split(
                np.arange(len(x)),
                test_size=self.validation_fraction,
                stratify=None if y.is_floating_point() else y,
                random_state=config.seed,
            )
        except ValueError as error:
            raise ValueError(f"patience must hold out a validation_fraction: {error}") from error
        held_out = make_loader(TensorDataset(x[valid], y[valid]), 2 * config.batch_size, False)
        return TensorDataset(x[train], y[train]), held_out

    def _samples(self, X: NDArray[Any]) -> Tensor:  # noqa: N803  # scikit-learn's name for it
        """Return samples in the model's shape, float32, divided by `divisor_`."""
        x = torch.from_numpy(np.require(X, requirements=["C", "W"]))
        if self.input_shape is not None:
            try:
                x = x.reshape(len(x), *self.input_shape)
            except (TypeError, RuntimeError) as error:
                raise ValueError(
                    f"input_shape must be a shape, such as (1, 8, 8), with the {x[0].numel()} "
                    f"values of a row of X, got {self.input_shape!r}"
                ) from error
        return x / self.divisor_

    def _first_samples(self, X: NDArray[Any]) -> Tensor:  # noqa: N803
        """Find `divisor_` by the values alone: an array of another type gives the same answer."""
        self.divisor_ = 1.0
        x = self._samples(X)
        is_whole = x.dim() == 4 and bool(((x >= 0) & (x <= 255) & (x == x.floor())).all())
        if is_whole and x.max() > 127:
            self.divisor_ = 256.0
        return x / self.divisor_

    def _outputs(self, X: Any) -> Tensor:  # noqa: N803
        """Return the model's outputs: float32 on the CPU, a row for each sample."""
        check_is_fitted(self)
        x = self._samples(validate_data(self, X, reset=False, **CHECKS))
        if tuple(x.shape[1:]) != self.input_shape_:
            raise ValueError(
                f"samples must have the shape {self.input_shape_} of those in fit, got "
                f"{tuple(x.shape[1:])}"
            )
        batches = make_loader(TensorDataset(x, torch.zeros(len(x))), 2 * self.batch_size, False)
        device = device_of(self.model_)
        with torch.no_grad():
            return torch.cat([self.model_(xb.to(device)).float().cpu() for xb, _ in batches])

    def save(self, path: str | Path) -> None:
        """Write the fitted estimator to one safetensors file: its weights, the rest as JSON.

        Raises:
            ConfigError: if a parameter is an object, or a function or class without a name.
            RunError: if the file cannot be written.
        """
        check_is_fitted(self)
        params = {name: plain(value) for name, value in self.get_params(deep=False).items()}
        named = {name: target for name in params if (target := name_of(name, params[name]))}
        fitted = {name: value for name, value in vars(self).items() if name.endswith("_")}
        model, history = fitted.pop("model_"), fitted.pop("history_")
        arrays = {name: value for name, value in fitted.items() if isinstance(value, np.ndarray)}
        state = {
            "estimator": type(self).__name__,
            "params": params | dict.fromkeys(named),
            "named": named,
            "fitted": {name: fitted[name] for name in fitted.keys() - arrays.keys()},
            "arrays": {name: (value.tolist(), value.dtype.str) for name, value in arrays.items()},
            "epochs": history.epochs,
            "factory": model.plainfit_factory.to_dict(),
            "weights": Uncompiled(model).state_dict(),
        }
        for target in (model.plainfit_factory.target, *named.values()):
            remember(target)
        write_output(Path(path), to_bytes(state))

    @classmethod
    def load(cls, path: str | Path, *, trust_code: bool = False) -> Self:
        """Read back what `save` wrote; the model is built on the CPU. No pickle is loaded.

        Args:
            path: of the file; it may come from someone else, as nothing in it is executed.
            trust_code: import the source of the model and of the loss that it names, whatever it
                is, and trust it from now on. By default it is imported only if it is plainfit's or
                torch's own, or an estimator with it was saved on this machine.

        Raises:
            RunError: if the file cannot be read, or holds something else.
            TrustError: if the source of the model or the loss is not trusted.
            ModelError: if the model can no longer be built.
        """
        try:
            state = from_bytes(Path(path).read_bytes())
        except (OSError, CheckpointError) as error:
            raise RunError(
                f"{path} must be a file that an estimator's `save` wrote ({error})"
            ) from error
        if (found := state.get("estimator", "checkpoint")) != cls.__name__:
            raise RunError(f"{path} must hold a {cls.__name__}, and holds a {found}")
        with raised_as(RunError, f"{path} must be what `save` wrote"):
            named = {
                name: trusted(
                    target, code_of(target), trust_code=trust_code, builds_model=name == "model"
                )
                for name, target in state["named"].items()
            }
            estimator = cls(**state["params"] | named)
            factory, history = Factory(**state["factory"]), History()
            trusted(factory.target, code_of(factory.target), trust_code=trust_code)
            model = factory.build_quietly()
            Uncompiled(model).load_state_dict(state["weights"])
            model.plainfit_factory = factory  # type: ignore[assignment]  # as in get_model
            history.epochs = state["epochs"]
            if "divisor_" not in state["fitted"]:
                raise RunError(
                    f"{path} must say how images are scaled, and is too old: fit it again"
                )
            arrays = {name: np.array(*given) for name, given in state["arrays"].items()}
            for name, value in {**state["fitted"], **arrays, "history_": history}.items():
                setattr(estimator, name, value)
            estimator.model_ = model.eval()
            return estimator


class PlainfitClassifier(ClassifierMixin, PlainfitEstimator):  # type: ignore[misc]
    """A scikit-learn classifier that trains a PyTorch model.

    >>> from sklearn.datasets import load_iris
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> X, y = load_iris(return_X_y=True)
    >>> pipeline = make_pipeline(StandardScaler(), PlainfitClassifier("mlp", epochs=20))
    >>> pipeline.fit(X, y).score(X, y) > 0.9
    True
    """

    def fit(self, X: Any, y: Any) -> Self:  # noqa: N803
        """Train from scratch.

        Args:
            X: an array or a data frame of numbers, shape (samples, features) or that of the
                model's input, such as (samples, channels, height, width). It is used as float32,
                whatever its type is. Images of whole numbers from 0 to 255, with one above 127, are
                bytes: they are divided by 256, here and in `predict`.
            y: labels, of any type, shape (samples,); `classes_` has them in order.

        Raises:
            ValueError: if scikit-learn's checks fail, or a parameter is out of range.
            ModelError: if the model cannot be built, or does not accept the data.
            NonFiniteError: if a loss is not finite.
        """
        X, y = validate_data(self, X, y, **CHECKS)  # noqa: N806
        check_classification_targets(y)
        self.classes_, numbers = np.unique(y, return_inverse=True)
        labels, classes = torch.from_numpy(numbers), len(self.classes_)
        return self._train(self._first_samples(X), labels, classes, F.cross_entropy, [accuracy])

    def predict_proba(self, X: Any) -> NDArray[np.float32]:  # noqa: N803
        """Return the probability of each of `classes_`: float32, shape (samples, classes)."""
        return np.asarray(self._outputs(X).softmax(dim=1))

    def predict(self, X: Any) -> NDArray[Any]:  # noqa: N803
        """Return the likeliest class of each sample: shape (samples,)."""
        likeliest = self._outputs(X).argmax(dim=1).numpy()  # raises if it is not fitted
        return np.asarray(self.classes_[likeliest])


class PlainfitRegressor(RegressorMixin, PlainfitEstimator):  # type: ignore[misc]
    """A scikit-learn regressor that trains a PyTorch model, for one target or several.

    Standardised targets train best: use a `TransformedTargetRegressor` with a `StandardScaler`.

    >>> X = np.linspace(-1, 1, 200).reshape(-1, 1)
    >>> PlainfitRegressor(epochs=30).fit(X, X[:, 0]).predict([[0.5]]).round(1)
    array([0.5], dtype=float32)
    """

    def fit(self, X: Any, y: Any) -> Self:  # noqa: N803
        """Train from scratch.

        Args:
            X: as for `PlainfitClassifier`.
            y: numbers, shape (samples,) or (samples, targets), used as float32.

        Raises:
            ValueError, ModelError, NonFiniteError: as for `PlainfitClassifier`.
        """
        X, y = validate_data(self, X, y, multi_output=True, y_numeric=True, **CHECKS)  # noqa: N806
        targets = torch.tensor(np.asarray(y, np.float32)).reshape(len(y), -1)
        return self._train(self._first_samples(X), targets, targets.shape[1], F.mse_loss, [])

    def predict(self, X: Any) -> NDArray[np.float32]:  # noqa: N803
        """Return the targets: float32, shape (samples,) for one, else (samples, targets)."""
        out: NDArray[np.float32] = self._outputs(X).numpy()
        return out[:, 0] if out.shape[1] == 1 else out

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


def plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def name_of(parameter: str, value: Any) -> str | None:
    """Return `module:name` of a function or class, None for a value that JSON can hold."""
    if callable(value):
        name = target_name(value)
        if "<" not in name and hasattr(value, "__qualname__"):
            return name
    else:
        with suppress(CheckpointError):
            pack(value, parameter, {}, {})
            return None
    raise ConfigError(
        f"must be numbers and strings, or a class or function at the top of a module, to be saved, "
        f"got {value!r}",
        field=parameter,
    )

"""What classifier and regressor share: parameters, training, and outputs."""
# ruff: noqa: N803 -- X is scikit-learn's name

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import KW_ONLY, dataclass
from functools import partial
from inspect import signature
from numbers import Integral
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import TensorDataset

from plainfit.common.devices import cpu_threads, device_of, threads_for
from plainfit.common.errors import ConfigError
from plainfit.data.datasets import resident
from plainfit.data.loaders import WrappedDataLoader, make_loader
from plainfit.estimators.saving import Saving
from plainfit.models.build import get_model, make_optimizer
from plainfit.runs.inference import predict
from plainfit.runs.prepare import check_outputs, optimizer_options, transformers
from plainfit.runs.settings import RunConfig, names_of
from plainfit.training.callbacks import EarlyStopping
from plainfit.training.checks import fails_on_last
from plainfit.training.hooks import Callback, LossFunction, warn
from plainfit.training.loop import fit
from plainfit.training.metrics import Metric

CHECKS = {"dtype": np.float32, "order": "C", "allow_nd": True}  # scikit-learn's, for X


@dataclass(repr=False, eq=False)  # scikit-learn's own are kept
class PlainfitEstimator(Saving):
    """The base of classifier and regressor: parameters, training, saving and loading.

    `fit` sets `model_`, the module, on its device and in `eval()` mode; `history_`, what
    `plainfit.fit` returned, which refers to the training data (copies and pickles do not);
    `n_iter_`, the epochs in all; `optimizer_`, of torch;
    `input_shape_`, of one sample as the model takes it; `divisor_`, 256 for images of bytes and 1
    for other numbers, by which `predict` divides too; `n_features_in_` and, from a data frame,
    `feature_names_in_`.

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
        optimizer: a class of `torch.optim`, its name, such as `NAdam`, or another `Optimizer`.
        optimizer_args: arguments for the optimizer, by name.
        lr: the learning rate; by default 0.1 for `sgd`, 0.001 for `adam`, `adamw` and
            `rmsprop`, and torch's own for others.
        momentum: for optimizers that have it; 0.9 by default for `sgd`, else 0.
        weight_decay: of weights, not of biases and norms; by default torch's own.
        schedule: the learning rate by step, by name, such as `one-cycle`.
        clip: scale gradients down to this norm.
        patience: hold out a part of the data, stop when the loss on it has not improved for N
            epochs, and restore the weights of the best one.
        validation_fraction: the share of the data to hold out for that, of each class alike.
        class_weight: of a classifier: the weight of each class in the loss, by label, or
            `balanced`, as in scikit-learn's `compute_class_weight`.
        callbacks: of `plainfit.fit`. Their validation is the one of `patience`.
        warm_start: go on in `fit` with the weights of the last one, in a new optimizer.
        threads: of the CPU while training; by default one for small steps, else all.
        device: `auto` (an accelerator if there is one), `cpu`, `cuda`, ...
        random_state: the seed of initial values, dropout, the order of samples and the split;
            None for another one each time, or a `RandomState` to draw it from.
        verbose: print a line for each epoch.
    """

    n_iter_ = 0

    model: str | Callable[..., nn.Module] = "mlp"
    _: KW_ONLY
    model_args: Mapping[str, Any] | None = None
    input_shape: Sequence[int] | None = None
    loss: LossFunction | None = None
    epochs: int = 50
    batch_size: int = 64
    drop_last: bool | None = None
    optimizer: str | type[Optimizer] = "adam"
    optimizer_args: Mapping[str, Any] | None = None
    lr: float | None = None
    momentum: float | None = None
    weight_decay: float | None = None
    schedule: str | None = None
    clip: float | None = None
    patience: int | None = None
    validation_fraction: float = 0.15
    class_weight: Mapping[Any, float] | str | None = None
    callbacks: Sequence[Callback] | None = None
    warm_start: bool = False
    threads: int | None = None
    device: str = "auto"
    random_state: Any = 0
    verbose: bool = False

    def _settings(self, *, once: bool = False) -> RunConfig:
        given = self.get_params(deep=False)
        own = {"model", "model_args", "optimizer", "optimizer_args", "drop_last", "loss"}
        shared = set(names_of(RunConfig)) & given.keys() - own
        seed = self.random_state
        if not isinstance(seed, Integral):
            seed = check_random_state(seed).randint(2**31)
        if given["lr"] == "auto":
            raise ConfigError(
                "must be a number here, got 'auto'; plainfit.lr_find suggests one", field="lr"
            )
        if once and (self.patience is not None or self.schedule is not None):
            raise ConfigError("patience and schedule apply to `fit`: `partial_fit` is one pass")
        return RunConfig(seed=int(seed), **{name: given[name] for name in shared})

    def _goes_on(self, once: bool) -> bool:
        goes_on = (once or self.warm_start) and hasattr(self, "model_")
        if goes_on and once and not hasattr(self, "optimizer_"):
            raise ConfigError(
                "partial_fit goes on with the optimizer's state, which is not in a file of `save`; "
                "use `fit` with warm_start=True, or pickle the estimator"
            )
        return goes_on

    def _train(
        self,
        X: NDArray[Any],
        y: Tensor,
        loss: LossFunction,
        metrics: Sequence[Metric],
        *,
        outputs: int,
        weights: Any = None,
        once: bool = False,
    ) -> Self:
        config, goes_on = self._settings(once=once), self._goes_on(once)
        x = self._samples(X) if goes_on else self._first_samples(X)
        tensors, loss = [x, y], self.loss or loss
        if weights is not None:
            w = torch.tensor(_check_sample_weight(weights, X, dtype=np.float32))
            if w.min() < 0:
                raise ValueError(f"sample_weight must not be negative, got {float(w.min())}")
            tensors = [tensor[w > 0] for tensor in (x, y, w)]
            loss, metrics = WeightedLoss(loss), []
        train_ds, valid_dl = self._parts(tensors, config)
        stopping = []
        if config.patience is not None:
            stopping.append(EarlyStopping(config.patience, restore_best=True))
        with torch.random.fork_rng(devices=[]):  # the caller's generator stays as it is
            model, opt = self._begun(config, tuple(x.shape[1:]), outputs, goes_on, once)
            names = getattr(self, "classes_", [f"target {i}" for i in range(outputs)])
            check_outputs(model, [train_ds[: config.batch_size][:2]], list(map(str, names)))
            on_device = resident(train_ds, device_of(model), config.memory_budget)
            order: Any = make_loader(on_device, config.batch_size, True, seed=config.seed)
            order.seek(self.n_iter_, 0)
            order.drop_last, train_dl = bool(self.drop_last), with_weights(order)
            if self.drop_last is None and (how := fails_on_last(model, train_dl)):
                order.drop_last = len(order) > 1  # else `fit` refuses it
                warn(f"{how} samples: each epoch leaves out one, as a norm of the model needs more")
            sample = train_ds[:1][0].to(device_of(model))
            with cpu_threads(config.threads or threads_for(model, sample, config.batch_size)):
                self.history_ = fit(
                    1 if once else config.epochs,
                    model,
                    loss,
                    opt,
                    train_dl,
                    valid_dl,
                    metrics=metrics,
                    schedule=config.schedule,
                    callbacks=[*transformers(config), *stopping, *(self.callbacks or ())],
                    echo=print if self.verbose else None,
                )
            self._generator = torch.get_rng_state()
        self.model_, self.optimizer_ = model.eval(), opt
        self.n_iter_ += len(self.history_)
        self.input_shape_ = tuple(x.shape[1:])
        return self

    def _begun(
        self, config: RunConfig, shape: tuple[int, ...], outputs: int, goes_on: bool, once: bool
    ) -> tuple[nn.Module, Optimizer]:
        """Return model and optimizer, new or as they are, with the generator in its place."""
        if goes_on:
            model = self.model_
            torch.manual_seed(config.seed)
            if hasattr(self, "_generator"):  # not in a file
                torch.set_rng_state(self._generator)
            if once:
                return model, self.optimizer_
        else:
            self.n_iter_ = 0
            model, _ = get_model(
                self.model,
                input_shape=shape,
                classes=outputs,
                seed=config.seed,
                device=config.device,
                arguments=self.model_args,
            )
        options = optimizer_options(config) | {"optimizer_args": self.optimizer_args}
        return model, make_optimizer(self.optimizer, model, **options)

    def _parts(self, tensors: list[Tensor], config: RunConfig) -> tuple[TensorDataset, Any]:
        # The training set, and a loader of the samples held out for early stopping.
        if config.patience is None:
            return TensorDataset(*tensors), None
        _, y, *_ = tensors
        try:
            train, valid = train_test_split(
                np.arange(len(y)),
                test_size=self.validation_fraction,
                stratify=None if y.is_floating_point() else y,
                random_state=config.seed,
            )
        except ValueError as error:
            raise ValueError(f"patience must hold out a validation_fraction: {error}") from error
        held_out = [tensor[valid] for tensor in tensors]
        if len(held_out) == 3:
            held_out[2] /= held_out[2].mean()
        valid_dl = make_loader(TensorDataset(*held_out), 2 * config.batch_size, False)
        return TensorDataset(*(tensor[train] for tensor in tensors)), with_weights(valid_dl)

    def _samples(self, X: NDArray[Any]) -> Tensor:
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

    def _first_samples(self, X: NDArray[Any]) -> Tensor:
        """Find `divisor_` by the values alone: an array of another type gives the same answer."""
        self.divisor_ = 1.0
        x = self._samples(X)
        is_whole = x.dim() == 4 and bool(((x >= 0) & (x <= 255) & (x == x.floor())).all())
        if is_whole and x.max() > 127:
            self.divisor_ = 256.0
        return x / self.divisor_

    def _outputs(self, X: Any) -> Tensor:
        """Return the model's outputs: float32 on the CPU, a row for each sample."""
        check_is_fitted(self)
        x = self._samples(validate_data(self, X, reset=False, **CHECKS))
        if tuple(x.shape[1:]) != self.input_shape_:
            raise ValueError(
                f"samples must have the shape {self.input_shape_} of those in fit, got "
                f"{tuple(x.shape[1:])}"
            )
        out: Tensor = predict(self.model_, x, bs=2 * self.batch_size)
        return out.float()


def with_weights(dl: Any) -> Any:
    if len(dl.dataset.tensors) == 2:
        return dl
    return WrappedDataLoader(dl, lambda xb, yb, weights: (xb, (yb, weights)))


class WeightedLoss:
    """The weighted mean of a batch's losses, `(losses * weights).sum() / weights.sum()`.

    Its target is a pair, the loss's own and the weights, of shape (batch,). Without gradients, the
    weights have the mean 1 over the whole set, so that its batches average exactly.
    """

    def __init__(self, loss: Any) -> None:
        if isinstance(loss, nn.Module) and hasattr(loss, "reduction"):
            loss = copy(loss)
            loss.reduction = "none"
        elif "reduction" in signature(loss).parameters:
            loss = partial(loss, reduction="none")
        else:
            raise ConfigError(
                "must have a parameter `reduction`, as those of torch, where samples have weights, "
                f"got {loss!r}",
                field="loss",
            )
        self.of_each = loss

    def __call__(self, out: Tensor, target: tuple[Tensor, Tensor]) -> Tensor:
        yb, weights = target
        losses: Tensor = self.of_each(out, yb)
        losses = losses.reshape(len(losses), -1).mean(1)  # of several targets
        total = weights.sum() if torch.is_grad_enabled() else len(weights)
        return (losses * weights).sum() / total

"""The classifier and the regressor."""
# ruff: noqa: N803, N806 -- X is scikit-learn's name

from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import column_or_1d, validate_data

from plainfit.common.errors import ConfigError
from plainfit.estimators.base import CHECKS, PlainfitEstimator
from plainfit.training.metrics import accuracy


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

    classes_: NDArray[Any]
    is_multilabel_ = False

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train, from scratch unless `warm_start`.

        Args:
            X: an array or a data frame of numbers, shape (samples, features) or that of the
                model's input, such as (samples, channels, height, width). It is used as float32,
                whatever its type is. Images of whole numbers from 0 to 255, with one above 127, are
                bytes: they are divided by 256, here and in `predict`.
            y: labels, of any type, shape (samples,); `classes_` has them in order. Or several
                labels for a sample, 0 or 1 of shape (samples, labels): the loss is then the binary
                cross-entropy of outputs (logits) and labels, by default.
            sample_weight: shape (samples,): the loss of a batch is the weighted mean.

        Raises:
            ValueError: if scikit-learn's checks fail, or a parameter is out of range.
            ModelError: if the model cannot be built, or does not accept the data.
            NonFiniteError: if a loss is not finite.
        """
        return self._learn(X, y, None, sample_weight)

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Train for one more epoch, on this data; model and optimizer go on as they are.

        Args:
            X, y, sample_weight: as for `fit`.
            classes: all labels that there will be, in the first call; not for several labels.

        Raises:
            ValueError, ModelError, NonFiniteError: as for `fit`.
        """
        return self._learn(X, y, classes, sample_weight, once=True)

    def _learn(self, X: Any, y: Any, classes: Any, weights: Any, *, once: bool = False) -> Self:
        goes_on = self._goes_on(once)
        X, y = validate_data(self, X, y, reset=not goes_on, multi_output=True, **CHECKS)
        check_classification_targets(y)
        self.is_multilabel_ = type_of_target(y) == "multilabel-indicator"
        if self.is_multilabel_:
            y = y.toarray() if hasattr(y, "toarray") else np.asarray(y)
            known, targets = np.arange(y.shape[1]), torch.tensor(y, dtype=torch.float32)
        else:
            y = column_or_1d(y, warn=True)
            if classes is None and once and not goes_on:
                raise ValueError("classes must be passed in the first call of partial_fit")
            known = self.classes_ if goes_on else np.unique(y if classes is None else classes)
            if unknown := sorted({*y.tolist()} - {*known.tolist()}):
                raise ValueError(f"labels must be among {known.tolist()}, got {unknown}")
            targets = torch.from_numpy(np.searchsorted(known, y))
        if self.class_weight is not None:
            if once and self.class_weight == "balanced":
                raise ConfigError("must be a dict for `partial_fit`", field="class_weight")
            of_class = compute_sample_weight(self.class_weight, y)
            weights = of_class if weights is None else of_class * np.asarray(weights)
        self.classes_, count = known, len(known)
        task: Any = (F.cross_entropy, [accuracy])
        if self.is_multilabel_:
            task = (F.binary_cross_entropy_with_logits, [])
        return self._train(X, targets, *task, outputs=count, weights=weights, once=once)

    def predict_proba(self, X: Any) -> NDArray[np.float32]:
        """Return the probability of each of `classes_`: float32, shape (samples, classes)."""
        out = self._outputs(X)  # raises if it is not fitted
        return np.asarray(out.sigmoid() if self.is_multilabel_ else out.softmax(dim=1))

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the likeliest class of each sample, or 0 or 1 for each of several labels."""
        out = self._outputs(X)
        if self.is_multilabel_:
            return np.asarray((out > 0).long())
        return np.asarray(self.classes_[out.argmax(dim=1).numpy()])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


class PlainfitRegressor(RegressorMixin, PlainfitEstimator):  # type: ignore[misc]
    """A scikit-learn regressor that trains a PyTorch model, for one target or several.

    Standardised targets train best: use a `TransformedTargetRegressor` with a `StandardScaler`.

    >>> X = np.linspace(-1, 1, 200).reshape(-1, 1)
    >>> PlainfitRegressor(epochs=30).fit(X, X[:, 0]).predict([[0.5]]).round(1)
    array([0.5], dtype=float32)
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train, from scratch unless `warm_start`.

        Args:
            X, sample_weight: as for `PlainfitClassifier`.
            y: numbers, shape (samples,) or (samples, targets), used as float32.

        Raises:
            ValueError, ModelError, NonFiniteError: as for `PlainfitClassifier`.
        """
        return self._learn(X, y, sample_weight)

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train for one more epoch, on this data; model and optimizer go on as they are."""
        return self._learn(X, y, sample_weight, once=True)

    def _learn(self, X: Any, y: Any, weights: Any, *, once: bool = False) -> Self:
        if self.class_weight is not None:
            raise ConfigError("applies to classifiers only", field="class_weight")
        new = not self._goes_on(once)
        X, y = validate_data(self, X, y, reset=new, multi_output=True, y_numeric=True, **CHECKS)
        targets = torch.tensor(np.asarray(y, np.float32)).reshape(len(y), -1)
        count = targets.shape[1]
        return self._train(X, targets, F.mse_loss, [], outputs=count, weights=weights, once=once)

    def predict(self, X: Any) -> NDArray[np.float32]:
        """Return the targets: float32, shape (samples,) for one, else (samples, targets)."""
        out: NDArray[np.float32] = self._outputs(X).numpy()
        return out[:, 0] if out.shape[1] == 1 else out

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

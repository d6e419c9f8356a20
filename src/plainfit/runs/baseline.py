"""Models of scikit-learn on the rows of a training: what a network has to beat."""

import time
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.compose import make_column_transformer
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from torch import Tensor
from torch.utils.data import TensorDataset

from plainfit.common.errors import ConfigError, DataError, raised_as
from plainfit.data.splits import DataSplits
from plainfit.data.targets import CLASSIFICATION, MULTI_LABEL, REGRESSION, Target
from plainfit.runs.settings import RunConfig
from plainfit.runs.tasks import balanced_accuracy, is_imbalanced, metrics_of
from plainfit.training.metrics import metric_name

BINS = 255  # of scikit-learn's boosting: a column of more categories is one of numbers for it


def baselines(data: DataSplits) -> list[dict[str, Any]]:
    """Fit scikit-learn's models on the training rows, and score them on those for validation.

    Returns:
        For each its `model`, the metrics that a training shows, and the `seconds` that it took.
    """
    train, valid, shape = data.train, data.valid, data.input_shape
    if not (
        isinstance(train, TensorDataset) and isinstance(valid, TensorDataset) and len(shape) == 1
    ):
        raise ConfigError(
            f"is for tables in memory, got samples of shape {shape} in {type(train).__name__}; "
            "leave it out",
            field="baseline",
        )
    (x, y), (valid_x, valid_y) = train.tensors, valid.tensors
    metrics = [*metrics_of(RunConfig(), data.target)]
    metrics += [balanced_accuracy] if is_imbalanced(data) else []
    rows = []
    for name, model in estimators(data, y.shape[1:].numel() > 1).items():
        start = time.perf_counter()
        with raised_as(DataError, f"{data.name}: scikit-learn's {name} must take the rows"):
            model.fit(x.numpy(), y.reshape(len(y), -1).squeeze(1).numpy())
            predicted = torch.as_tensor(model.predict(valid_x.numpy()))
        seconds = time.perf_counter() - start
        out = outputs(predicted, data.target)
        scores = {metric_name(metric): float(metric(out, valid_y)) for metric in metrics}
        rows.append({"model": name, **scores, "seconds": seconds})
    return rows


def estimators(data: DataSplits, several: bool) -> dict[str, Any]:
    """Return the models for a task by name, for `several` numbers or labels one for each."""
    sizes = {int(at): count for at, count in data.embeddings.items()}
    coded = {"categorical_features": [at for at, count in sizes.items() if count <= BINS] or None}
    if data.task == REGRESSION:
        each: Any = MultiOutputRegressor
        trivial, linear = DummyRegressor(), Ridge()
        boosted = HistGradientBoostingRegressor(random_state=0, **coded)
        names = ("mean", "ridge regression", "gradient boosting")
    else:
        each = OneVsRestClassifier  # takes a label that all rows have, or none
        trivial, linear = DummyClassifier(), LogisticRegression(max_iter=1000)
        boosted = HistGradientBoostingClassifier(random_state=0, **coded)
        names = ("most frequent", "logistic regression", "gradient boosting")
    one_hot = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), list(sizes)), remainder="passthrough"
    )
    models = (trivial, make_pipeline(one_hot, linear), boosted)
    return dict(zip(names, map(each, models) if several else models, strict=True))


def outputs(predicted: Tensor, target: Target) -> Tensor:
    if target.task == CLASSIFICATION:
        return F.one_hot(predicted, len(target.names)).float()
    numbers = predicted.float().reshape(len(predicted), -1)
    return numbers - 0.5 if target.task == MULTI_LABEL else numbers

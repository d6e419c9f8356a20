"""What the scikit-learn estimators share: settings, data, and a timed call of `fit` for each."""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from sklearn.datasets import load_digits, make_classification, make_regression
from sklearn.preprocessing import scale

HIDDEN = {"logistic": (), "mlp": (128, 64)}  # the layers of plainfit's models
RATES = {"sgd": 0.01, "adam": 0.001}
WARM_UP = 1000  # samples


class Setting(NamedTuple):
    """One row of the table."""

    data: str
    model: str
    optimizer: str
    batch_size: int
    epochs: int


def settings() -> Iterator[Setting]:
    """Yield what is measured."""
    trainings = [("logistic", "sgd"), ("mlp", "adam")]
    for (data, epochs), training, size in product(
        [("digits", 10), ("table", 1)], trainings, (64, 256)
    ):
        yield Setting(data, *training, size, epochs)
    yield Setting("regression", "mlp", "adam", 256, 1)


def read(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return scaled float32 samples and targets: 1,797 of 64 features, or 100,000 of 30."""
    if name == "regression":
        x, y = make_regression(100_000, 30, n_informative=12, noise=1.0, random_state=0)
        return x.astype(np.float32), scale(y).astype(np.float32)[:, None]
    if name == "digits":
        x, y = load_digits(return_X_y=True)
    else:
        x, y = make_classification(100_000, 30, n_informative=12, n_classes=4, random_state=0)
    return scale(x).astype(np.float32), y.astype(np.int64)


def report(make: Callable[[Setting, int, int], Any]) -> None:
    """Fit each setting after a short fit; print its seconds and its score.

    Args:
        make: `(setting, features, outputs) -> estimator`.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    is_quick, rows = parser.parse_args().quick, []
    for setting in settings():
        x, y = read(setting.data)
        outputs = 1 if y.ndim == 2 else int(y.max()) + 1
        make(setting, x.shape[1], outputs).fit(x[:WARM_UP], y[:WARM_UP])
        if is_quick:
            x, y = x[:WARM_UP], y[:WARM_UP]
        model = make(setting, x.shape[1], outputs)
        began = time.perf_counter()
        model.fit(x, y)
        seconds = time.perf_counter() - began
        rows.append(setting._asdict() | {"seconds": seconds, "score": float(model.score(x, y))})
    print(json.dumps(rows))

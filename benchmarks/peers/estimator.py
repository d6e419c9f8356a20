"""What both scikit-learn estimators share: the data, and timed calls of `fit`."""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.datasets import load_digits, make_classification
from sklearn.preprocessing import StandardScaler

HIDDEN = {"logistic": (), "mlp": (128, 64)}  # the layers of plainfit's models
RATE = 0.01


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True, choices=("digits", "table"))
    parser.add_argument("--model", required=True, choices=HIDDEN)
    parser.add_argument("--optimizer", required=True, choices=("sgd", "adam"))
    for name in ("--batch-size", "--epochs", "--fits"):
        parser.add_argument(name, type=int, required=True)
    args = parser.parse_args()
    args.hidden = HIDDEN[args.model]
    return args


def read(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return scaled float32 samples, and labels: 1,797 of 64 features, or 100,000 of 30."""
    if name == "digits":
        x, y = load_digits(return_X_y=True)
    else:
        x, y = make_classification(100_000, 30, n_informative=12, n_classes=4, random_state=0)
    return StandardScaler().fit_transform(x).astype(np.float32), y.astype(np.int64)


def report(args: argparse.Namespace, make: Callable[[], Any]) -> None:
    """Fit once to warm up, then so often; print the seconds of each, and the accuracy."""
    x, y = read(args.data)
    seconds = []
    for number in range(1 + args.fits):
        model = make()
        began = time.perf_counter()
        model.fit(x, y)
        if number:
            seconds.append(time.perf_counter() - began)
    print(json.dumps({"seconds": seconds, "accuracy": model.score(x, y)}))

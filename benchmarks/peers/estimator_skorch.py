"""skorch's estimators as its documentation has them: no validation set, nothing printed."""

from itertools import pairwise

import torch
from estimator import HIDDEN, RATES, Setting, report
from skorch import NeuralNet, NeuralNetClassifier, NeuralNetRegressor
from torch import nn


def network(sizes: tuple[int, ...]) -> nn.Module:
    """Return the layers of plainfit's model with these sizes."""
    layers = [layer for pair in pairwise(sizes) for layer in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def make(setting: Setting, features: int, outputs: int, **loader: object) -> NeuralNet:
    """Return an estimator; `loader` is how it makes training batches, by default stock."""
    kind = NeuralNetRegressor if outputs == 1 else NeuralNetClassifier
    return kind(
        network,
        module__sizes=(features, *HIDDEN[setting.model], outputs),
        criterion=nn.MSELoss if outputs == 1 else nn.CrossEntropyLoss,
        optimizer={"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[setting.optimizer],
        lr=RATES[setting.optimizer],
        max_epochs=setting.epochs,
        batch_size=setting.batch_size,
        iterator_train__shuffle=True,
        train_split=None,
        verbose=0,
        **loader,
    )


if __name__ == "__main__":
    report(make)

"""skorch's `NeuralNetClassifier`, as its documentation has it, without a validation set."""

from itertools import pairwise

import torch
from estimator import RATE, arguments, read, report
from skorch import NeuralNetClassifier
from torch import nn

args = arguments()
x, y = read(args.data)


def network() -> nn.Module:
    """Return the layers of plainfit's model of that name."""
    sizes = (x.shape[1], *args.hidden, int(y.max()) + 1)
    layers = [layer for pair in pairwise(sizes) for layer in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


report(
    args,
    lambda: NeuralNetClassifier(
        network,
        criterion=nn.CrossEntropyLoss,
        optimizer={"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[args.optimizer],
        lr=RATE,
        max_epochs=args.epochs,
        batch_size=args.batch_size,
        iterator_train__shuffle=True,
        train_split=None,
        verbose=0,
    ),
)

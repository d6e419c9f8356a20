"""skorch's `NeuralNetClassifier`: as its documentation has it, or as fast as it can be."""

import torch
from estimator import BATCH_SIZE, HIDDEN, RATE, arguments, read, report
from skorch import NeuralNetClassifier
from torch import nn
from torch_parts import rows_loader

args = arguments("--tuned")
x, y = read(args.data)
sizes = (x.shape[1], *HIDDEN, int(y.max()) + 1)


def network() -> nn.Module:
    """Return the layers of plainfit's `mlp`."""
    first, second, last = (nn.Linear(*pair) for pair in zip(sizes[:-1], sizes[1:], strict=True))
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), last)


options = {"iterator_train__shuffle": True}
if args.tuned:  # a gather a batch, and one thread, as plainfit chooses for small steps
    torch.set_num_threads(1)
    options["iterator_train"] = rows_loader
report(
    args,
    lambda: NeuralNetClassifier(
        network,
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=RATE,
        max_epochs=args.epochs,
        batch_size=BATCH_SIZE,
        train_split=None,
        verbose=0,
        **options,
    ),
)

"""skorch, for `compare.py`: `Checkpoint`, which saves epochs."""

from contextlib import suppress

import torch
from compare_parts import report, start
from compare_work import BATCH_SIZE, EPOCHS
from skorch import NeuralNetClassifier
from skorch.callbacks import Checkpoint
from skorch.helper import predefined_split
from torch import nn

args, model, train_ds, valid_ds = start()
checkpoint = Checkpoint(monitor=None, dirname=args.folder)
net = NeuralNetClassifier(
    model,
    criterion=nn.CrossEntropyLoss,
    optimizer=torch.optim.SGD,
    optimizer__momentum=0.9,
    lr=0.1,
    max_epochs=EPOCHS,
    batch_size=BATCH_SIZE,
    iterator_train__shuffle=True,
    train_split=predefined_split(valid_ds),
    callbacks=[checkpoint],
    verbose=0,
)
net.initialize()
with suppress(FileNotFoundError):  # at first
    net.load_params(checkpoint=checkpoint)
net.set_params(max_epochs=EPOCHS - len(net.history))
net.partial_fit(train_ds, y=None)
report(net.module_, valid_ds, net.history[-1]["valid_loss"], "torch", "skorch")

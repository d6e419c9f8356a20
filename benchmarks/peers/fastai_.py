"""fastai's `Learner` over torch's loaders. `fastai.basics` has no bar; the table is off."""

from functools import partial

import torch
import torch.nn.functional as F
from contender import arguments
from fastai.basics import SGD, Callback, DataLoaders, Learner, accuracy
from torch_parts import DEVICE, loaders, make_model, watch

args = arguments(loader=("rows", "getitems", "stock"))
clock = watch()


class Clock(Callback):
    """Tells the watch of the first step and of each epoch's end."""

    order = 100  # after fastai's own recorder

    def after_step(self):
        clock.stepped()

    def after_train(self):
        clock.trained()

    def after_epoch(self):
        _, loss, acc = self.recorder.values[-1]
        clock.validated(loss, acc)


dls = DataLoaders(*loaders(args), device=DEVICE)
learn = Learner(
    dls,
    make_model(args),
    loss_func=F.cross_entropy,
    opt_func=partial(SGD, mom=args.momentum),
    lr=args.lr,
    metrics=accuracy,
    cbs=Clock(),
)
torch.manual_seed(args.seed)
clock.begin()
with learn.no_logging():
    learn.fit(args.epochs)
clock.report(len(dls.train), "torch", "fastai")

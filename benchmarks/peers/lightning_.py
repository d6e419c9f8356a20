"""PyTorch Lightning with `barebones=True`, its own switch for everything that costs speed."""

import logging

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from contender import arguments
from torch_parts import loaders, make_model, make_sgd, watch

args = arguments(loader=("rows", "getitems", "stock"))
clock = watch()
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Classifier(pl.LightningModule):
    """The model; `barebones` has no `self.log`, so the figures are added up here."""

    def __init__(self):
        super().__init__()
        self.model = make_model(args)

    def configure_optimizers(self):
        opt = make_sgd(args, self.model)
        clock.watch(opt)
        return opt

    def training_step(self, batch, batch_idx):
        xb, yb = batch
        return F.cross_entropy(self.model(xb), yb)

    def on_validation_epoch_start(self):
        clock.trained()
        self.loss = self.hits = torch.zeros((), device=self.device)
        self.n = 0

    def validation_step(self, batch, batch_idx):
        xb, yb = batch
        out = self.model(xb)
        self.loss = self.loss + F.cross_entropy(out, yb, reduction="sum")
        self.hits = self.hits + (out.argmax(1) == yb).sum()
        self.n += len(yb)

    def on_validation_epoch_end(self):
        clock.validated(self.loss.item() / self.n, self.hits.item() / self.n)


train_dl, valid_dl = loaders(args)
trainer = pl.Trainer(max_epochs=args.epochs, barebones=True)
clock.begin()
trainer.fit(Classifier(), train_dl, valid_dl)
clock.report(len(train_dl), "torch", "lightning")

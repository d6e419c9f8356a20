"""PyTorch Lightning, for `compare.py`: `ModelCheckpoint`, `ckpt_path` and `detect_anomaly`."""

import logging
import warnings

import lightning.pytorch as pl
import torch.nn.functional as F
from compare_parts import report, start
from compare_work import BATCH_SIZE, EPOCHS, EVERY
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import optim
from torch.utils.data import DataLoader

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
warnings.simplefilter("ignore")


class Classifier(pl.LightningModule):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def configure_optimizers(self):
        return optim.SGD(self.parameters(), lr=0.1, momentum=0.9)

    def training_step(self, batch, batch_idx):
        xb, yb = batch
        return F.cross_entropy(self.model(xb), yb)

    def validation_step(self, batch, batch_idx):
        xb, yb = batch
        self.log("valid_loss", F.cross_entropy(self.model(xb), yb))


args, model, train_ds, valid_ds = start()
pl.seed_everything(0, workers=True, verbose=False)
trainer = pl.Trainer(
    max_epochs=EPOCHS,
    accelerator="cpu",
    detect_anomaly=True,
    callbacks=[ModelCheckpoint(args.folder, every_n_train_steps=EVERY, save_last=True)],
    logger=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
loss = None
try:
    trainer.fit(
        Classifier(model),
        DataLoader(train_ds, BATCH_SIZE, shuffle=True),
        DataLoader(valid_ds, BATCH_SIZE),
        ckpt_path="last",  # none is there at first
    )
    loss = trainer.callback_metrics["valid_loss"].item()
except RuntimeError as error:
    print(error)
report(model, valid_ds, loss, "torch", "lightning")

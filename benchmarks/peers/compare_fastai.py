"""fastai, for `compare.py`: its callbacks that save each epoch, and stop on NaN."""

from functools import partial
from pathlib import Path

import torch.nn.functional as F
from compare_parts import report, start
from compare_work import BATCH_SIZE, EPOCHS
from fastai.basics import SGD, DataLoaders, Learner, set_seed
from fastai.callback.tracker import SaveModelCallback, TerminateOnNaNCallback
from torch.utils.data import DataLoader

args, model, train_ds, valid_ds = start()
set_seed(0, reproducible=True)
dls = DataLoaders(
    DataLoader(train_ds, BATCH_SIZE, shuffle=True), DataLoader(valid_ds, BATCH_SIZE), device="cpu"
)
learn = Learner(
    dls,
    model,
    loss_func=F.cross_entropy,
    opt_func=partial(SGD, mom=0.9),
    lr=0.1,
    path=args.folder,
    cbs=[SaveModelCallback(every_epoch=True, with_opt=True), TerminateOnNaNCallback()],
)
saved = sorted(Path(args.folder, "models").glob("model_*.pth"))
if saved:
    learn.load(saved[-1].stem, with_opt=True)
with learn.no_logging(), learn.no_bar():
    learn.fit(EPOCHS, start_epoch=len(saved))
loss = None if args.nan else learn.recorder.values[-1][1]
report(model, valid_ds, loss, "torch", "fastai")

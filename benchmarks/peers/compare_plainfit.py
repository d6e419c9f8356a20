"""plainfit, for `compare.py`."""

import torch.nn.functional as F
from compare_parts import report, start
from compare_work import BATCH_SIZE, EPOCHS, EVERY
from torch import optim

import plainfit as pf

args, model, train_ds, valid_ds = start()
train_dl, valid_dl = pf.get_data(train_ds, valid_ds, bs=BATCH_SIZE)
opt = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
checkpoint = pf.Checkpointing(args.folder, every_steps=EVERY)
loss = None
try:
    history = pf.fit(
        EPOCHS, model, F.cross_entropy, opt, train_dl, valid_dl,
        checkpoint=checkpoint, resume=True, echo=None,
    )  # fmt: skip
    loss = history[-1]["valid_loss"]
except ArithmeticError as error:
    print(error)
report(model, valid_ds, loss, "torch")

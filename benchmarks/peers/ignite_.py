"""Ignite's supervised trainer and evaluator; the trainer does not read the loss of each step."""

import torch.nn.functional as F
from contender import arguments
from ignite.engine import Events, create_supervised_evaluator, create_supervised_trainer
from ignite.metrics import Accuracy, Loss
from torch_parts import DEVICE, loaders, make_model, make_sgd, watch

args = arguments(loader=("rows", "getitems", "stock"))
clock = watch()
train_dl, valid_dl = loaders(args)
model = make_model(args).to(DEVICE)
opt = make_sgd(args, model)
trainer = create_supervised_trainer(
    model, opt, F.cross_entropy, DEVICE, output_transform=lambda x, y, y_pred, loss: loss.detach()
)
evaluator = create_supervised_evaluator(
    model,
    {"loss": Loss(F.cross_entropy, device=DEVICE), "accuracy": Accuracy(device=DEVICE)},
    DEVICE,
)


@trainer.on(Events.EPOCH_COMPLETED)
def validate():
    clock.trained()
    figures = evaluator.run(valid_dl).metrics
    clock.validated(figures["loss"], figures["accuracy"])


clock.watch(opt)
clock.begin()
trainer.run(train_dl, max_epochs=args.epochs)
clock.report(len(train_dl), "torch", "pytorch-ignite")

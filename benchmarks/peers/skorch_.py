"""skorch's `NeuralNetClassifier`, without what it prints."""

import torch
from contender import arguments
from skorch import NeuralNetClassifier
from skorch.callbacks import Callback
from skorch.helper import predefined_split
from torch import nn
from torch_parts import DEVICE, LOADERS, datasets, make_model, watch

args = arguments(loader=("rows", "getitems", "stock"))
clock = watch()


class Net(NeuralNetClassifier):
    """Tells the watch where an epoch's training ends; there is no hook for that."""

    def run_single_epoch(self, iterator, training, *rest, **options):
        super().run_single_epoch(iterator, training, *rest, **options)
        if training:
            clock.trained()

    def initialize_optimizer(self, *rest, **options):
        super().initialize_optimizer(*rest, **options)
        clock.watch(self.optimizer_)
        return self


class Epochs(Callback):
    """Tells the watch of each epoch's end."""

    def on_epoch_end(self, net, **_):
        row = net.history[-1]
        clock.validated(row["valid_loss"], row["valid_acc"])


def make_loader(dataset, batch_size, shuffle=False):
    """Make a loader in the way skorch calls one."""
    return LOADERS[args.loader](dataset, batch_size, shuffle=shuffle)


train_ds, valid_ds = datasets(args)
torch.manual_seed(args.seed)
net = Net(
    make_model(args),
    criterion=nn.CrossEntropyLoss,
    optimizer=torch.optim.SGD,
    optimizer__momentum=args.momentum,
    lr=args.lr,
    max_epochs=args.epochs,
    batch_size=args.batch_size,
    iterator_train=make_loader,
    iterator_train__shuffle=True,
    iterator_valid=make_loader,
    iterator_valid__batch_size=args.batch_size * 2,
    train_split=predefined_split(valid_ds),
    callbacks=[Epochs()],
    callbacks__print_log=None,
    device=DEVICE.type,
)
net.initialize()
clock.begin()
net.partial_fit(train_ds, y=None)
clock.report(-(-len(train_ds) // args.batch_size), "torch", "skorch")

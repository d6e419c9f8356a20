"""plainfit's three lines; the flags are its options."""

import torch
import torch.nn.functional as F
from contender import Watch, arguments, read
from torch.utils.data import TensorDataset
from torch_parts import tensors, watch, weights_hash

import plainfit as pf


class Clock(pf.Callback):
    """Tells the watch of each epoch's end."""

    observer = True

    def __init__(self, watch: Watch, samples: int) -> None:
        self.watch, self.samples = watch, samples

    def on_epoch_end(self, context):
        row = context.history[-1]
        self.watch.trained_at = self.watch.at + self.samples / row["samples_per_second"]
        self.watch.validated(row["valid_loss"], row["accuracy"])


def dataset(args, part):
    """Return floats as all contenders have them, or the bytes that `open_data` would give."""
    if args.bytes:
        images, labels = map(torch.from_numpy, read(args.data, part))
        return pf.ImageDataset(images.unsqueeze(1), labels)
    return TensorDataset(*tensors(args.data, part, args.model))


args = arguments(
    "--bytes", "--free-memory", "--fused", "--channels-last",
    compile=("no", "step", "epoch"), precision=(), threads=(),
)  # fmt: skip
form = False if args.compile == "no" else args.compile
of_fit = {"compile": form, "precision": args.precision or "fp32"}
if args.free_memory:
    of_fit["keep_memory"] = False
if args.threads:
    torch.set_num_threads(int(args.threads))
of_model = {"fused": args.fused, "channels_last": args.channels_last}
clock = watch()
train_ds, valid_ds = dataset(args, "train"), dataset(args, "valid")

train_dl, valid_dl = pf.get_data(train_ds, valid_ds, bs=args.batch_size, seed=args.seed)
model, opt = pf.get_model(
    args.model, lr=args.lr, momentum=args.momentum, seed=args.seed, **of_model
)
clock.watch(opt)
clock.begin()
pf.fit(
    args.epochs,
    model,
    F.cross_entropy,
    opt,
    train_dl,
    valid_dl,
    metrics=[pf.accuracy],
    callbacks=[Clock(clock, len(train_ds))],
    **of_fit,
)
clock.report(len(train_dl), "torch", weights=weights_hash(model), plainfit=pf.__version__)

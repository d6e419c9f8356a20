"""A folder of images with plainfit: `open_data` and the three lines.

python folder_plainfit.py FOLDER [--memory-budget MIB] [--threads N]
"""

import time

import torch
import torch.nn.functional as F
from folder_run import BATCH_SIZE, EPOCHS, LR, MOMENTUM, WORKERS, arguments, report

import plainfit as pf


def main() -> None:
    """Train for some epochs, validating after each."""
    args = arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    data = pf.open_data(args.folder, memory_budget=args.memory_budget)
    train_dl, valid_dl = pf.get_data(
        data.train, data.valid, bs=BATCH_SIZE, seed=args.seed, num_workers=WORKERS
    )
    model, opt = pf.get_model("cnn", lr=LR, momentum=MOMENTUM, seed=args.seed)
    began = time.time()
    history = pf.fit(
        EPOCHS, model, F.cross_entropy, opt, train_dl, valid_dl, metrics=[pf.accuracy], echo=None
    )
    epochs, at = [], began
    for row in history.to_dicts():
        at += row["seconds"]
        epochs.append({"at": at, "loss": row["valid_loss"], "accuracy": row["accuracy"]})
    report(began, epochs)


if __name__ == "__main__":
    main()

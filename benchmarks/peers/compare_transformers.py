"""The Trainer of Hugging Face's transformers, for `compare.py`: `save_steps` and its resume."""

import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch.nn.functional as F
from compare_parts import Net, report, start
from compare_work import BATCH_SIZE, EPOCHS, EVERY
from torch import optim
from transformers import Trainer, TrainingArguments


class Classifier(Net):
    def forward(self, x, labels=None):
        out = super().forward(x)
        return {"loss": F.cross_entropy(out, labels), "logits": out}


def rows(dataset):
    return [{"x": x, "labels": y} for x, y in dataset]


args, model, train_ds, valid_ds = start(Classifier)
trainer = Trainer(
    model,
    TrainingArguments(
        args.folder,
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=BATCH_SIZE,
        per_device_eval_batch_size=BATCH_SIZE,
        save_steps=EVERY,
        seed=0,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
    ),
    train_dataset=rows(train_ds),
    eval_dataset=rows(valid_ds),
    optimizers=(optim.SGD(model.parameters(), lr=0.1, momentum=0.9), None),
)
trainer.train(resume_from_checkpoint=any(Path(args.folder).glob("checkpoint-*")))
loss = None if args.nan else trainer.evaluate()["eval_loss"]
report(model, valid_ds, loss, "torch", "transformers")

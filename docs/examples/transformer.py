"""Fine-tuning a model of transformers, which computes its loss, by the schedule that it came with.

A batch is a mapping of inputs, for `model(**batch)`. Here the model is new and tiny; for a
pretrained one, `from_pretrained` takes the place of the configuration.
"""

import torch
from torch import optim
from transformers import BertConfig, BertForSequenceClassification, get_linear_schedule_with_warmup

import plainfit as pf

EPOCHS, SIZES = 2, {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}


def parts():
    g = torch.Generator().manual_seed(0)
    tokens = torch.randint(2, 50, (96, 12), generator=g)
    lengths = torch.randint(6, 13, (96, 1), generator=g)
    mask = (torch.arange(12) < lengths).long()
    columns = {
        "input_ids": tokens * mask,
        "attention_mask": mask,
        "labels": (tokens[:, 0] > 25).long(),
    }
    samples = [{name: column[i] for name, column in columns.items()} for i in range(96)]
    train_dl, valid_dl = pf.get_data(samples[:80], samples[80:], bs=16)
    torch.manual_seed(0)
    config = BertConfig(vocab_size=50, num_hidden_layers=1, num_labels=2, **SIZES)
    model = BertForSequenceClassification(config)
    opt = optim.AdamW(model.parameters(), lr=1e-3)
    schedule = get_linear_schedule_with_warmup(opt, 3, EPOCHS * len(train_dl))
    return model, opt, train_dl, valid_dl, schedule


def train(echo=print):
    model, opt, train_dl, valid_dl, schedule = parts()
    return pf.fit(EPOCHS, model, None, opt, train_dl, valid_dl, schedule=schedule,
                  schedule_by="step", echo=echo)  # fmt: skip


def by_hand():
    model, opt, train_dl, _, schedule = parts()
    losses = []
    model.train()
    for _ in range(EPOCHS):
        for batch in train_dl:
            loss = model(**batch).loss
            loss.backward()
            opt.step()
            schedule.step()
            opt.zero_grad()
            losses.append(loss.item())
    return losses

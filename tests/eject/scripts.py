"""Plain training scripts, made of a model, an optimizer, a loss and what happens in a step."""
# ruff: noqa: E501, RUF028 -- scripts in strings

IMAGES = """
x_train = torch.rand(40, 1, 8, 8, generator=g)
y_train = torch.randint(4, (40,), generator=g)
x_train[torch.arange(40), 0, y_train, y_train] += 1
"""
VECTORS = """
x_train = torch.randn(40, 12, generator=g)
y_train = x_train[:, :4].argmax(1)
"""
SEQUENCES = VECTORS.replace("40, 12", "40, 3, 12").replace("[:, :4]", "[:, 0, :4]")
WORDS = """
x_train = torch.randint(20, (40, 6), generator=g)
y_train = x_train[:, 0] % 4
"""
REAL_TARGETS = """
x_train = torch.randn(40, 12, generator=g)
y_train = x_train[:, :4] * 2 + 1
"""
CHANCES = """
x_train = torch.randn(40, 12, generator=g)
y_train = (x_train[:, :4] > 0).float()
"""

SCRIPT = '''
"""A training."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim

epochs = 2
bs = 16  # samples in a batch
g = torch.Generator().manual_seed(1)
{data}

{model}

torch.manual_seed(0)
model = {make}
opt = {opt}
{before}
losses = []
step = 0
for epoch in range(epochs):
    model.train()
    for idx in torch.randperm(len(x_train), generator=g).split(bs):
        xb, yb = x_train[idx], y_train[idx]
{start}
        loss = {loss}
        loss.backward()
{clip}
        opt.step()
        opt.zero_grad()
{after}
        losses.append(loss.item())
        step += 1

    model.eval()
    with torch.no_grad():
        losses.append(F.mse_loss(model(x_train), model(x_train) * 0.5).item())
    print(f"epoch {{epoch}}: {{losses[-1]:.4f}}")
{end}
state = model.state_dict()
'''


def script(
    model="",
    make="Net()",
    opt="optim.SGD(model.parameters(), lr=0.1)",
    loss="F.cross_entropy(model(xb), yb)",
    data=IMAGES,
    before="",
    start="",
    clip="",
    after="",
    end="",
):
    """Return the text of a script."""
    indented = {
        name: "\n".join(" " * 8 + line for line in lines.strip().splitlines())
        for name, lines in (("start", start), ("clip", clip), ("after", after))
    }
    text = SCRIPT.format(
        model=model.strip(), make=make, opt=opt, loss=loss, data=data.strip(), before=before.strip(),
        end=end.strip(), **indented,
    )  # fmt: skip
    if "Tensor" not in model:
        text = text.replace("Tensor, ", "")
    return "\n".join(line for line in text.splitlines() if line.strip() or line == "") + "\n"


MLP = "nn.Sequential(nn.Flatten(), nn.Linear({inputs}, 8), nn.ReLU(), nn.Linear(8, 4))"
PERCEPTRON = {"make": MLP.format(inputs=12), "data": VECTORS}
ON_IMAGES = {"make": MLP.format(inputs=64)}

OPTIMIZERS = {
    "sgd": "optim.SGD(model.parameters(), lr=0.1)",
    "sgd-positional": "optim.SGD(model.parameters(), 0.1, 0.9)",
    "momentum": "optim.SGD(model.parameters(), lr=0.1, momentum=0.9)",
    "dampening": "optim.SGD(model.parameters(), lr=0.1, momentum=0.9, dampening=0.3)",
    "nesterov": "optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)",
    "decay": "optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)",
    "groups": """optim.SGD(
    [
        {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.dim() == 1], "lr": 0.2},
    ],
    lr=0.1,
)""",
    "adam": "optim.Adam(model.parameters())",
    "adam-decay": "optim.Adam(model.parameters(), lr=0.01, betas=(0.8, 0.9), weight_decay=0.1)",
    "adam-options": "optim.Adam(model.parameters(), eps=1e-3, foreach=False, amsgrad=False)",
    "adamw": "optim.AdamW(model.parameters(), lr=0.01)",
    "adamw-options": "optim.AdamW(model.parameters(), 0.01, (0.8, 0.9), 1e-6, 0.2)",
    "adamw-groups": """torch.optim.AdamW(
    [dict(params=[p], weight_decay=0.1 * (p.dim() > 1)) for p in model.parameters()], lr=0.01
)""",
    "rmsprop": "optim.RMSprop(model.parameters(), lr=0.01)",
    "rmsprop-all": """optim.RMSprop(
    model.parameters(), lr=0.01, alpha=0.9, eps=1e-4, weight_decay=0.1, momentum=0.9, centered=True
)""",
}

LOSSES = {
    "smoothing": ("F.cross_entropy(model(xb), yb, label_smoothing=0.1)", VECTORS),
    "nll": ("F.nll_loss(F.log_softmax(model(xb), dim=1), yb)", VECTORS),
    "mse": ("F.mse_loss(model(xb), yb)", REAL_TARGETS),
    "l1": ("F.l1_loss(model(xb), yb)", REAL_TARGETS),
    "bce": ("F.binary_cross_entropy_with_logits(model(xb), yb)", CHANCES),
    "module": ("nn.CrossEntropyLoss()(model(xb), yb)", VECTORS),
    "module-mse": ("nn.MSELoss()(model(xb), yb)", REAL_TARGETS),
    "usual": ('F.cross_entropy(model(xb), yb, reduction="mean")', VECTORS),
}


def sequential(*layers, **options):
    """Return a script with a Sequential of the layers, given as text."""
    return script(make=f"nn.Sequential({', '.join(layers)})", **options)


HEAD = ("nn.AdaptiveAvgPool2d(1)", "nn.Flatten()", "nn.Linear(4, 4)")
LAYERS = {
    "conv": sequential("nn.Conv2d(1, 4, 3)", "nn.ReLU()", *HEAD),
    "conv-options": sequential(
        "nn.Conv2d(1, 4, (3, 2), stride=2, padding=(1, 2), bias=False)",
        "nn.Conv2d(4, 4, 2, dilation=2, groups=2)",
        *HEAD,
    ),
    "conv-same": sequential('nn.Conv2d(1, 4, 3, padding_mode="zeros")', *HEAD),
    "batch-norm": sequential(
        "nn.Conv2d(1, 4, 3, bias=False)", "nn.BatchNorm2d(4)", "nn.ReLU()", *HEAD
    ),
    "batch-norm-options": sequential(
        "nn.Conv2d(1, 4, 3)", "nn.BatchNorm2d(4, eps=1e-3, momentum=0.3, affine=False)", *HEAD
    ),
    "batch-norm-mean": sequential("nn.Conv2d(1, 4, 3)", "nn.BatchNorm2d(4, momentum=None)", *HEAD),
    "batch-norm-1d": sequential(
        "nn.Linear(12, 6)", "nn.BatchNorm1d(6)", "nn.Tanh()", "nn.Linear(6, 4)", data=VECTORS
    ),
    "both-batch-norms": sequential(
        "nn.Conv2d(1, 4, 3)",
        "nn.BatchNorm2d(4)",
        "nn.AdaptiveAvgPool2d((1, 1))",
        "nn.Flatten()",
        "nn.BatchNorm1d(4)",
        "nn.Linear(4, 4)",
    ),  # fmt: skip
    "layer-norm": sequential(
        "nn.Linear(12, 6)", "nn.LayerNorm(6)", "nn.Sigmoid()", "nn.Linear(6, 4)", data=VECTORS
    ),
    "layer-norm-2d": sequential("nn.LayerNorm((8, 8), bias=False)", *HEAD[1:2], "nn.Linear(64, 4)"),
    "dropout": sequential(
        "nn.Linear(12, 16)", "nn.Dropout(0.3)", "nn.Linear(16, 4)", "nn.Dropout()", data=VECTORS
    ),
    "max-pool": sequential("nn.Conv2d(1, 4, 3)", "nn.MaxPool2d(2)", *HEAD),
    "max-pool-ties": sequential(
        "nn.Conv2d(1, 4, 3)", "nn.ReLU()", "nn.MaxPool2d(3, stride=2, padding=1)", *HEAD
    ),
    "avg-pool": sequential("nn.Conv2d(1, 4, 3)", "nn.AvgPool2d(2, stride=1, padding=1)", *HEAD),
    "leaky": sequential(
        "nn.Linear(12, 8)", "nn.LeakyReLU(0.2)", "nn.Identity()", "nn.Linear(8, 4)", data=VECTORS
    ),
    "leaky-default": sequential("nn.Linear(12, 4)", "nn.LeakyReLU()", data=VECTORS),
    "softmax": sequential("nn.Linear(12, 4)", "nn.Softmax(dim=1)", data=VECTORS),
    "log-softmax": sequential("nn.Linear(12, 4)", "nn.LogSoftmax(dim=1)", data=VECTORS),
    "inplace": sequential("nn.Conv2d(1, 4, 3)", "nn.ReLU(inplace=True)", *HEAD),
    "no-bias": sequential("nn.Linear(12, 4, bias=False)", data=VECTORS),
    "conv-1d": sequential(
        "nn.Conv1d(3, 4, 3, stride=2, padding=1)",
        "nn.ReLU()",
        "nn.Flatten()",
        "nn.Linear(24, 4)",
        data=SEQUENCES,
    ),  # fmt: skip
    "embedding": sequential("nn.Embedding(20, 5)", "nn.Flatten()", "nn.Linear(30, 4)", data=WORDS),
}

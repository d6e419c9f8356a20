"""Modules as users write them, each in a script of its own."""
# ruff: noqa: E501 -- scripts in strings

from eject.scripts import SEQUENCES, VECTORS, WORDS, script

NET = """
class Net(nn.Module):
    \"\"\"A network.\"\"\"

    def __init__(self, hidden: int = 8, dropout: float = 0.1) -> None:
        super().__init__()
{init}

    def forward(self, xb: Tensor) -> Tensor:
{forward}
"""


def net(init, forward, before="", **options):
    """Return a script with a class Net, of the lines of its two methods."""
    bodies = ("\n".join(" " * 8 + line for line in lines.strip().splitlines())
              for lines in (init, forward))  # fmt: skip
    text = NET.format(**dict(zip(("init", "forward"), bodies, strict=True)))
    return script(
        f"{before.strip()}\n\n\n{text.strip()}\n\n".lstrip(), **{"data": VECTORS, **options}
    )


TWO = "self.a = nn.Linear(12, hidden)\nself.b = nn.Linear(hidden, 4)"
MODULES = {
    "functional": net(TWO, "return self.b(F.relu(self.a(xb)))  # two layers"),
    "dropout": net(
        f"{TWO}\nself.dropout = nn.Dropout(dropout)",
        "return self.b(self.dropout(F.relu(self.a(xb))))",
    ),
    "functional-dropout": net(
        TWO, "xb = F.dropout(F.tanh(self.a(xb)), 0.2, self.training)\nreturn self.b(xb)"
    ),
    "list": net(
        "self.layers = nn.ModuleList(nn.Linear(12, 12) for _ in range(3))\nself.out = nn.Linear(12, 4)",
        "for layer in self.layers:\n    xb = torch.relu(layer(xb))\nreturn self.out(xb)",
    ),
    "list-appended": net(
        "self.layers = nn.ModuleList()\nfor size in (12, 8):\n"
        "    self.layers.append(nn.Linear(size, 8))\nself.out = nn.Linear(8, 4)",
        "for n in range(len(self.layers)):\n    xb = F.relu(self.layers[n](xb))\nreturn self.out(xb)",
    ),
    "nested": net(
        "self.body = nn.Sequential(Block(12), nn.Sequential(Block(12), nn.Identity()))\n"
        "self.out = nn.Linear(12, 4)",
        "return self.out(self.body(xb))",
        """
class Block(nn.Module):
    # A residual block
    def __init__(self, width):
        super().__init__()
        self.lin = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x):
        return x + F.relu(self.norm(self.lin(x)))
""",
    ),
    "tied": net(
        "self.embed = nn.Embedding(20, 5)\nself.out = nn.Linear(5, 20, bias=False)\n"
        "self.out.weight = self.embed.weight",
        "return self.out(self.embed(xb).mean(1))",
        data=WORDS,
    ),
    "shared": net(
        "self.a = nn.Linear(12, 12)\nself.again = self.a\nself.b = nn.Linear(12, 4)",
        "return self.b(F.relu(self.again(F.relu(self.a(xb)))))",
    ),
    "buffer": net(
        f'{TWO}\nself.register_buffer("scale", torch.full((12,), 2.0))\n'
        'self.register_buffer("seen", torch.tensor(0))',
        "self.seen += len(xb)\nself.scale = self.scale * 1.01\nreturn self.b(self.a(xb * self.scale))",
    ),
    "parameter": net(
        f"{TWO}\nself.scale = nn.Parameter(torch.ones(hidden))\n"
        "self.fixed = nn.Parameter(torch.full((4,), 0.5), requires_grad=False)",
        "return self.b(self.a(xb) * self.scale) + self.fixed",
    ),
    "frozen": net(
        f"{TWO}\nself.a.requires_grad_(False)\nfor p in self.b.parameters():\n"
        "    p.requires_grad_(p.dim() > 1)",
        "return self.b(self.a(xb))",
    ),
    "if": net(
        f"{TWO}\nself.c = nn.Linear(hidden, 4)",
        "xb = F.relu(self.a(xb))\nreturn self.b(xb) if xb.sum() > 40 else self.c(xb)",
    ),
    "lambda": net(
        "self.net = nn.Sequential(Lambda(lambda x: x.flatten(1)), nn.Linear(12, 4))",
        "return self.net(xb)",
        """
class Lambda(nn.Module):
    def __init__(self, func):
        super().__init__()
        self.func = func

    def forward(self, x):
        return self.func(x)
""",
    ),
    "arguments": net(
        f"{TWO}\nself.act = act()",
        "return self.b(self.act(self.a(xb)))",
        make="Net(nn.Tanh)",
    ).replace("hidden: int = 8", "act=nn.ReLU, hidden: int = 8"),
    "init": net(
        f"{TWO}\nself.apply(draw)",
        "return self.b(F.relu(self.a(xb)))",
        """
def draw(m):
    if isinstance(m, nn.Linear):
        nn.init.kaiming_normal_(m.weight, nonlinearity="relu")
        if m.bias is not None:
            nn.init.zeros_(m.bias)
""",
    ),
    "inits": net(
        f"{TWO}\nnn.init.xavier_uniform_(self.a.weight)\nnn.init.xavier_normal_(self.b.weight, gain=2)\n"
        "nn.init.normal_(self.a.bias, std=0.1)\nnn.init.constant_(self.b.bias, 0.1)",
        "return self.b(self.a(xb))",
    ),
    "more-inits": net(
        f'{TWO}\nnn.init.kaiming_uniform_(self.a.weight, a=0.5, mode="fan_out")\n'
        "nn.init.uniform_(self.b.weight, -0.1, 0.1)\nnn.init.ones_(self.a.bias)",
        "return self.b(self.a(xb))",
    ),
    "downsample": net(
        "self.a = nn.Linear(12, hidden)\nself.shortcut: nn.Module | None = None\n"
        "if hidden != 12:\n    self.shortcut = nn.Linear(12, hidden)\nself.b = nn.Linear(hidden, 4)",
        "shortcut = xb if self.shortcut is None else self.shortcut(xb)\n"
        "return self.b(F.relu(self.a(xb) + shortcut))",
    ),
    "own-names": net(
        "self.a = nn.Linear(12, 8)\nself.b = nn.Linear(8, 4)",
        "return self.b(relu(self.a(xb)) + Linear(2)(self.a(xb)) + F.relu(self.a(xb)))",
        """
def relu(x):
    return x.clamp(min=-1)


class Linear:
    \"\"\"A line, as a schedule has it.\"\"\"

    def __init__(self, slope):
        self.slope = slope

    def __call__(self, x):
        return x * self.slope
""",
    ),
    "subclass": net(
        "self.a = Scaled(12, hidden)\nself.b = nn.Linear(hidden, 4)",
        "return self.b(self.a(xb))",
        """
class Scaled(nn.Linear):
    def forward(self, x):
        return super().forward(x) * 2
""",
    ),
    "sequence": net(
        "self.a = nn.Linear(12, hidden)\nself.b = nn.Linear(hidden, 4)",
        "return self.b(torch.tanh(self.a(xb)).mean(1))",
        data=SEQUENCES,
    ),
    "functional-conv": net(
        "self.w = nn.Parameter(torch.randn(4, 1, 3, 3) * 0.3)\nself.out = nn.Linear(4, 4)",
        "xb = F.max_pool2d(F.conv2d(xb.view(-1, 1, 4, 3), self.w, padding=1), 2)\n"
        "return self.out(F.adaptive_avg_pool2d(xb, 1).flatten(1))",
    ),
    "method-of-module": net(
        'self.add_module("a0", nn.Linear(12, 4))', 'return self.get_submodule("a0")(xb)'
    ),
}

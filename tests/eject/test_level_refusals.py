"""`lower` refuses what it cannot write out: the line, what, and the lowest level that works."""

import pytest

from eject.running import assert_same
from eject.scripts import PERCEPTRON, VECTORS, script, sequential
from plainfit.common.errors import ConfigError, EjectError
from plainfit.eject.lower import lower
from plainfit.eject.replacements import LEVELS, check

SGD = "optim.SGD(model.parameters(), lr=0.1)"


def with_opt(opt):
    return script(**PERCEPTRON, opt=opt)


REFUSED = {
    "lstm": (script("lstm = nn.LSTM(3, 3)", **PERCEPTRON), "`nn.LSTM`", "optim"),
    "attention": (script("a = nn.MultiheadAttention(4, 2)", **PERCEPTRON), "Multihead", "optim"),
    "unknown": (sequential("nn.Linear(12, 4)", "nn.Softshrink()", data=VECTORS), "shrink", "optim"),
    "gelu": (sequential("nn.Linear(12, 4)", "nn.GELU()", data=VECTORS), "`nn.GELU`", "layers"),
    "silu": (sequential("nn.Linear(12, 4)", "nn.SiLU()", data=VECTORS), "`nn.SiLU`", "layers"),
    "f-gelu": (script(**PERCEPTRON, loss="F.cross_entropy(F.gelu(model(xb)), yb)"),
               "`F.gelu`", "layers"),
    "attention-function": (
        script("attend = F.scaled_dot_product_attention", **PERCEPTRON), "attention`", "layers"),
    "pool": (sequential("nn.Conv2d(1, 1, 3)", "nn.AdaptiveAvgPool2d(2)", "nn.Flatten()"),
             "`nn.AdaptiveAvgPool2d`", "layers"),
    "kernel": (script("t = torch.conv_transpose2d", **PERCEPTRON), "transpose2d`", "tensors"),
    "lbfgs": (with_opt("optim.LBFGS(model.parameters())"), "`optim.LBFGS`", "loop"),
    "adagrad": (with_opt("optim.Adagrad(model.parameters())"), "`optim.Adagrad`", "data"),
    "fused": (with_opt("optim.Adam(model.parameters(), fused=True)"), "option `fused`", "loop"),
    "amsgrad": (with_opt("optim.Adam(model.parameters(), amsgrad=True)"), "`amsgrad`", "data"),
    "maximize": (with_opt(SGD.replace("lr=0.1", "lr=0.1, maximize=True")), "`maximize`", "data"),
    "scheduler": (script(before="s = optim.lr_scheduler.StepLR(opt, 1)", **PERCEPTRON),
                  "StepLR`", "data"),
    "autocast": (script(before='cast = torch.autocast("cpu")', **PERCEPTRON), "autocast`", "loop"),
    "compile": (script(before="model = torch.compile(model)", **PERCEPTRON), "compile`", "loop"),
    "padding-mode": (sequential('nn.Conv2d(1, 4, 3, padding_mode="circular")'),
                     "option `padding_mode` of `nn.Conv2d`", "optim"),
    "positional": (sequential('nn.Conv2d(1, 4, 3, 1, 0, 1, 1, True, "zeros")'),
                   'option `"zeros"`', "optim"),
    "reduction": (script(**PERCEPTRON, loss='F.cross_entropy(model(xb), yb, reduction="sum")'),
                  "option `reduction` of `F.cross_entropy`", "layers"),
    "hook": (script(before="model.register_forward_hook(print)", **PERCEPTRON),
             "method `register_forward_hook`", "layers"),
    "transient": (script("""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("a", torch.ones(1), persistent=False)
"""), "persistent=False", "layers"),
    "by-name": (script('layer = getattr(nn, "Linear")', **PERCEPTRON), "`nn`", "optim"),
    "dict": (script("d = nn.ModuleDict()", **PERCEPTRON), "`nn.ModuleDict`", "layers"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_names_the_line_and_the_lowest_level(name):
    text, what, lowest = REFUSED[name]
    for level in {LEVELS[max(2, LEVELS.index(lowest) + 1)], "math"}:
        with pytest.raises(EjectError) as caught:
            lower(text, level)
        message = str(caught.value)
        assert what in message
        assert message.endswith(f"the lowest level that works for this script is {lowest!r}")
        line = int(message.split(":")[0].removeprefix("line "))
        word = what.replace("method ", "").replace("option ", "").split(" of ")[0].strip("`")
        assert word in text.splitlines()[line - 1]
    check(text, lowest)


@pytest.mark.parametrize("name", ["gelu", "silu", "f-gelu", "pool", "reduction"])
def test_what_is_refused_still_works_at_the_level_that_is_named(name):
    text, _, lowest = REFUSED[name]
    assert_same(text, lowest)


def test_the_lowest_level_is_that_of_all_obstacles():
    text = script("lstm = nn.LSTM(3, 3)", **PERCEPTRON, opt="optim.Adagrad(model.parameters())")
    with pytest.raises(EjectError, match=r"line 20?: .* is 'data'$|LSTM.* is 'data'$"):
        lower(text, "math")


def test_an_unknown_level_and_a_text_that_is_no_python():
    with pytest.raises(ConfigError, match=r"unknown level 'layer': .* did you mean 'layers'"):
        lower("", "layer")
    with pytest.raises(EjectError, match="line 1: a script must be valid Python, got "):
        lower("x = (", "optim")

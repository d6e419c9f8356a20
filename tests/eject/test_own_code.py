"""Code of the user's in a script: names, values, tensors, tied weights, cells of a notebook."""

import argparse
import importlib
import keyword
import sys
import textwrap
from collections import OrderedDict
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset

import plainfit as pf
from ejecting import differing, run_here
from plainfit.common.errors import EjectError
from plainfit.eject import eject_run
from plainfit.eject.script import reserved
from plainfit.eject.verify import saved
from plainfit.runs.folder import open_run
from plainfit.runs.settings import RunConfig
from plainfit.runs.train import train


def words():
    g = torch.Generator().manual_seed(0)
    return TensorDataset(
        torch.randint(12, (24, 4), generator=g), torch.randint(12, (24,), generator=g)
    )


def vectors(classes=3):
    g = torch.Generator().manual_seed(0)
    return TensorDataset(
        torch.randn(24, 6, generator=g), torch.randint(classes, (24,), generator=g)
    )


def ejected(path, model, loss=F.cross_entropy, ds=None, levels=("data", "loop"), **options):
    """Train, and eject; each script gives the losses and the weights. Return the last one."""
    ds = vectors() if ds is None else ds
    opt = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    history = pf.fit(2, model, loss, opt, *pf.get_data(ds, ds, 8), echo=None, **options)
    for level in levels:
        history.run.eject(path, level=level, echo=None, force=True)
        losses, weights = run_here(path)
        assert losses == history.step_losses
        assert differing(weights, saved(model)[0]) == []
    return path.read_text()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "train.py"


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Makes a module of the user's from its text."""

    def made(name, text):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(sys.modules, name, raising=False)
        importlib.invalidate_caches()
        return importlib.import_module(name)

    return made


class Loose(nn.Module):
    def __init__(self, words=12):
        super().__init__()
        self.words = words
        self.emb = nn.Embedding(words, 8)
        self.head = nn.Linear(8, words, bias=False)

    def forward(self, x):
        return self.head(self.emb(x).mean(1))


class Tied(Loose):
    def __init__(self, words=12):
        super().__init__(words)
        self.head.weight = self.emb.weight


class Buffers(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(12, 8)
        self.norm = nn.BatchNorm1d(8)
        self.norms = nn.ModuleList([self.norm, self.norm])
        self.register_buffer("a", torch.arange(8.0))
        self.register_buffer("b", self.a)
        self.head = nn.Linear(8, 12)

    def forward(self, x):
        x = self.emb(x).mean(1) + self.a * self.b
        for norm in self.norms:
            x = norm(x)
        return self.head(x)


def tied(model):
    model.head.weight = model.emb.weight
    return model


def built(target):
    return pf.get_model(target, device="cpu")[0]


def twice():
    layer, again = nn.Linear(8, 8), nn.Linear(8, 8)
    again.weight = layer.weight
    return nn.Sequential(
        nn.EmbeddingBag(12, 8), layer, nn.ReLU(), layer, nn.ReLU(), again, nn.Linear(8, 12)
    )


def flatten(x):
    return x.flatten(1)


TIED = {
    "in the class": Tied,
    "afterwards": lambda: tied(Loose()),
    "after a conversion": lambda: tied(Loose().double().float()),
    "with a state that was loaded": lambda: tied(Loose()),
    "a layer twice": twice,
    "buffers": Buffers,
    "by a factory": lambda: built(Tied),
    "after a factory": lambda: tied(built(Loose)),
}


@pytest.mark.parametrize("name", TIED)
def test_tied_weights(name, path):
    model = TIED[name]()
    model.load_state_dict({name: value.clone() for name, value in model.state_dict().items()})
    text = ejected(path, model, ds=words())
    assert ("model.head.weight = model.emb.weight" in text) == ("after" in name or "with" in name)


def test_weights_that_are_no_longer_tied(path):
    model = Tied()
    model.head.weight = nn.Parameter(model.emb.weight.detach().clone())
    with pytest.raises(EjectError, match=r"head.weight and emb.weight are one in one of them only"):
        ejected(path, model, ds=words())


def test_a_run_of_a_model_with_tied_layers(tmp_path, monkeypatch, module):
    module("own_tied", """
        from torch import nn

        class Net(nn.Module):
            def __init__(self, inputs, classes):
                super().__init__()
                self.a = nn.Linear(inputs, inputs)
                self.layers = nn.ModuleList([self.a, self.a])
                self.out = nn.Linear(inputs, classes)

            def forward(self, x):
                x = x.flatten(1)
                for layer in self.layers:
                    x = layer(x).relu()
                return self.out(x)
    """)  # fmt: skip
    folder = tmp_path / "run"
    settings = {"model": "own_tied:Net", "model_args": "inputs=64,classes=10", "batch_size": 256}
    train(RunConfig(**settings, epochs=1, out=folder), echo=None)
    eject_run(folder, tmp_path / "train.py")
    losses, weights = run_here(tmp_path / "train.py")
    assert losses == [step.loss for step in open_run(folder).steps]
    assert differing(weights, load_file(folder / "model.safetensors")) == []


def test_every_name_of_a_script_may_be_one_of_the_users(path, module):
    """Each name is a function of its own that changes the loss, and a layer's constant."""
    names = [name for name in reserved() if not keyword.iskeyword(name)]
    functions = [
        f"def {name}(x):\n    return x * {1 + n / 99999}\n\n\n" for n, name in enumerate(names)
    ]
    own = module("own_names", "".join(functions) + f"""
class OwnNames:
    def __call__(self, scores, kinds):
        import torch as library
        for each in ({", ".join(names)}):
            scores = each(scores)
        return library.nn.functional.cross_entropy(scores, kinds)
""")  # fmt: skip
    constants = [f"{name} = {n / 999}\n" for n, name in enumerate(names)]
    other = module("own_constants", "".join(constants) + f"""

def mean(scores, kinds):
    return scores.mean() + {" + ".join(names)}
""")  # fmt: skip
    text = ejected(path, nn.Sequential(nn.Linear(6, 3)), own.OwnNames(), metrics=[other.mean])
    assert "def own_loss(x):" in text
    assert "OWN_SEED = " in text
    assert "OWN_OWN_SEED = " in text


def test_one_name_for_two_things(path, module):
    module("own_parts", "def scale(x, by):\n    return x * by\n\n\nfrom math import sqrt as F\n")
    own = module("own_losses", """
        import own_parts
        import torch.nn.functional as F
        from own_parts import F as root

        def scale(out):
            return own_parts.scale(out, by=root(2))

        def loss(out, y, scale=scale):
            step = scale(out)
            return F.cross_entropy(own_parts.scale(step, 0.5), y)
    """)  # fmt: skip
    text = ejected(path, nn.Sequential(nn.Linear(6, 3)), own.loss)
    assert "def own_scale(" in text


def test_what_a_module_changes_after_it_was_bound(path, module):
    own = module("own_changes", """
        import torch.nn.functional as F

        index = {"a": 0}
        for letter in "bc":
            index[letter] = len(index)
        names = []
        names.append("a")
        size = 1
        size += 2
        half, third = 2, 3  # both from one statement
        if size:
            factor = half / third

        def loss(out, y):
            return F.cross_entropy(out, y) * len(index) * len(names) * size * factor * ord(letter)
    """)  # fmt: skip
    text = ejected(path, nn.Sequential(nn.Linear(6, 3)), own.loss)
    assert text.count("half, third = 2, 3  # both from one statement") == 1


def test_tables_that_were_drawn(path, module):
    own = module("own_tables", """
        import numpy
        import torch
        import torch.nn.functional as F

        table = torch.rand(3, 24) * numpy.random.rand()
        factors = numpy.random.rand(3)

        def loss(out, y):
            return F.cross_entropy(out * table[:, 0] * torch.from_numpy(factors), y)
    """)  # fmt: skip
    text = ejected(path, nn.Sequential(nn.Linear(6, 3)), own.loss)
    assert 'table = data["tensor_0"]' in text


def smooth(by, weight):
    def loss(out, y, *, power=by):
        return F.cross_entropy(out, y, weight=weight, label_smoothing=power) * by

    return loss


def test_two_functions_of_one_definition(path):
    weights = torch.rand(3) + 1, torch.rand(3) + 1
    losses = [smooth(0.1, weights[0]), smooth(0.3, weights[1])]
    ejected(
        path, nn.Sequential(nn.Linear(6, 3)), lambda out, y: losses[0](out, y) + losses[1](out, y)
    )


WEIGHT = torch.tensor([1.0, 2.0, 0.1])
MANY = torch.rand(40, generator=torch.Generator().manual_seed(1)) + 0.5


def weighted(out, y, weight=WEIGHT):
    return F.cross_entropy(out, y, weight=weight)


class Weighted(nn.Module):
    def __init__(self, weight, smoothing=0.0):
        super().__init__()
        self.weight, self.smoothing = weight, smoothing

    def forward(self, out, y):
        return F.cross_entropy(out, y, self.weight, label_smoothing=self.smoothing)


class Margin:
    """Not a module."""

    def __init__(self, table):
        self.table = table

    def of(self, out, y):
        return F.cross_entropy(out + self.table.to(out), y)


def of_labels(weight):
    return lambda out, y: F.cross_entropy(out, y, weight=weight)


LOSSES = {
    "weight": (nn.CrossEntropyLoss(weight=WEIGHT, label_smoothing=0.1), "([1.0, 2.0, 0.1])"),
    "many": (nn.CrossEntropyLoss(weight=MANY), 'weight=data["tensor_0"]'),
    "partial": (partial(F.cross_entropy, weight=WEIGHT), "weight=torch.tensor([1.0, 2.0, 0.1])"),
    "default": (weighted, "WEIGHT = torch.tensor([1.0, 2.0, 0.1])"),
    "module": (Weighted(WEIGHT, 0.1), "Weighted(torch.tensor([1.0, 2.0, 0.1]), smoothing=0.1)"),
    "closure": (of_labels(MANY), 'own_weight = data["tensor_0"]'),
    "method": (Margin(WEIGHT.double() + 0.1).of, "0.20000000149011612], dtype=torch.float64)).of"),
    "integers": (Margin(torch.tensor([1, 0, 3])).of, "Margin(torch.tensor([1, 0, 3])).of"),
    "half": (Margin(WEIGHT.bfloat16()).of, "dtype=torch.bfloat16)"),
}


@pytest.mark.parametrize("name", LOSSES)
def test_tensors_within_a_loss(name, path):
    loss, written = LOSSES[name]
    classes = 40 if written.endswith('0"]') else 3
    text = ejected(path, nn.Sequential(nn.Linear(6, classes)), loss, ds=vectors(classes))
    assert written.replace("own_", "") in text.replace("own_", "")


class Centers(nn.Module):
    """A loss that is trained."""

    def __init__(self, classes, width=3):
        super().__init__()
        self.classes, self.width = classes, width
        self.centers = nn.Parameter(torch.randn(classes, width))
        self.scale = nn.Parameter(torch.ones(1))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, out, y):
        if self.training:
            self.seen += len(y)
        return (out * self.scale - self.centers[y]).square().mean() + self.seen / 1000


@pytest.mark.parametrize("form", ["list", "groups", "frozen", "factory"])
def test_a_loss_that_is_trained(form, path):
    loss = Centers(3)
    model = built(Small) if form == "factory" else Small()
    groups = [*model.parameters(), *loss.parameters()]
    if form == "groups":
        groups = [{"params": model.parameters()}, {"params": loss.parameters(), "lr": 0.5}]
    if form == "frozen":
        groups = model.parameters()
    ds = vectors()
    opt = optim.SGD(groups, lr=0.1)
    history = pf.fit(2, model, loss, opt, *pf.get_data(ds, ds, 8), echo=None)
    history.run.eject(path, echo=None)
    losses, weights = run_here(path)
    assert losses == history.step_losses
    assert differing(weights, model.state_dict()) == []


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.f = nn.Linear(6, 3)

    def forward(self, x):
        return self.f(x)


class Two(Small):
    def forward(self, a, b=None):
        a, b = a if b is None else (a, b)
        return super().forward(torch.cat([a, b], 1)), a


class OfOne(Two):
    def forward(self, pair):
        return super().forward(pair)


@pytest.mark.parametrize("stock", [True, False])
@pytest.mark.parametrize("kind", [Two, OfOne])
def test_several_inputs(kind, stock, path):
    x, y = vectors().tensors
    ds = TensorDataset(x[:, :2], x[:, 2:], y)

    def loss(out, y):
        return F.cross_entropy(out[0], y)

    def size(out, y):
        return out[1].shape[1] + 0.0 * len(y)

    model = kind()
    own = DataLoader(ds, 8, shuffle=True), DataLoader(ds, 8)
    loaders = own if stock else pf.get_data(ds, ds, 8)
    opt = optim.SGD(model.parameters(), lr=0.1)
    history = pf.fit(2, model, loss, opt, loaders[0], loaders[1], metrics=[size], echo=None)
    for level in ("loop",) if stock else ("loop", "data", "layers"):
        history.run.eject(path, level=level, echo=None, force=True)
        losses, weights = run_here(path)
        assert losses == history.step_losses
        assert differing(weights, model.state_dict()) == []


def test_many_metrics_fit_into_the_lines(path, module, capsys):
    names = [f"metric_with_a_long_name_{n}" for n in range(9)]
    texts = [f"def {name}(out, yb):\n    return out.mean() + {len(name)}\n" for name in names]
    metrics = [*map(vars(module("many", "\n\n".join(texts))).get, names)]
    text = ejected(path, nn.Linear(6, 3), metrics=metrics, levels=["loop"])
    assert max(map(len, text.splitlines())) <= 100
    run_here(path)
    heading, *rows = capsys.readouterr().out.splitlines()[-3:]
    assert heading.split()[3:-2] == names
    assert all(len(row) == len(heading) for row in rows)


def test_inputs_that_are_their_own_target(path):
    ds = TensorDataset(vectors().tensors[0])
    ejected(path, nn.Sequential(nn.Linear(6, 6)), F.mse_loss, ds, levels=("loop", "data", "optim"))


class Kind(Enum):
    RELU = "relu"
    TANH = "tanh"


@dataclass
class Config:
    width: int = 8
    kind: Kind = Kind.RELU
    sizes: list[int] = field(default_factory=lambda: [6])
    home: Path = Path("data")
    inner: "Config | None" = None


class Configured(nn.Module):
    depth = 1
    layers = depth + 1  # by a name of the class

    def __init__(self, config, *names, **options):
        super().__init__()
        self.config, self.names, self.options = config, names, options
        self.a = nn.Linear(config.sizes[0], config.width)
        self.b = nn.Linear(config.width, 3)

    @property
    def act(self):
        return getattr(torch, self.config.kind.value)

    @act.setter
    def act(self, kind):
        self.config.kind = kind

    def forward(self, x):
        return self.b(self.act(self.a(x))) * self.layers


MODELS = {
    "dataclass": lambda: Configured(Config(5, inner=Config(home=Path("a/b")))),
    "enum": lambda: Configured(Config(kind=Kind.TANH), "a", "b", more=[Kind.RELU, (1, None)]),
    "namespace": lambda: Configured(argparse.Namespace(width=4, sizes=[6], kind=Kind.TANH)),
    "factory": lambda: pf.get_model(
        Configured, device="cpu", arguments={"config": Config(9, Kind.TANH)}
    )[0],
    "ordered": lambda: nn.Sequential(OrderedDict(a=nn.Linear(6, 4), b=nn.Linear(4, 3))),
    "double": lambda: nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 3)),
}


@pytest.mark.parametrize("name", MODELS)
def test_arguments_of_models(name, path):
    model = MODELS[name]()
    model(vectors().tensors[0])  # a lazy one knows its shapes then
    ejected(path, model)


CELLS = [
    """
    %matplotlib --list
    import torch, tempfile
    import torch.nn.functional as F
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset
    from dataclasses import dataclass
    import plainfit as pf
    """,
    "width = 4\nsum = 2.0",
    """
    @dataclass
    class Config:
        width: int = 8
    """,
    "class Net(nn.Module):\n    def forward(self, x):\n        return x * 0",
    """
    class Net(nn.Module):
        # the one that is trained
        def __init__(self, config):
            super().__init__()
            self.config = config
            self.f = nn.Linear(6, config.width)
            self.g = nn.Linear(config.width, 3)

        def forward(self, x):
            return self.g(act(self.f(x)))
    """,
    "def act(x):\n    return x * 0",
    "weights = torch.tensor([1.0, 2.0, 5.0])\nfor i in range(3):\n    weights[i] += i",
    "def act(x):\n    return F.relu(x) * sum  # the later one",
    "loss = lambda out, y: F.cross_entropy(out, y, weight=weights)",
    """
    torch.manual_seed(0)
    ds = TensorDataset(torch.randn(24, 6), torch.randint(3, (24,)))
    model = Net(Config(width))
    opt = torch.optim.SGD(model.parameters(), 0.1)
    history = pf.fit(1, model, loss, opt, *pf.get_data(ds, ds, 8), echo=None)
    """,
    "class Net(nn.Module):\n    pass",
]


def test_cells_of_a_notebook(path, monkeypatch):
    shells = pytest.importorskip("IPython.core.interactiveshell")
    monkeypatch.setitem(sys.modules, "__main__", ModuleType("__main__"))
    for name in ("ps1", "ps2", "ps3", "displayhook", "excepthook"):  # which a shell sets
        monkeypatch.setattr(sys, name, getattr(sys, name, ""), raising=False)
    shell = shells.InteractiveShell(user_module=sys.modules["__main__"])
    shell.history_manager.enabled = False
    for cell in CELLS:
        shell.run_cell(textwrap.dedent(cell)).raise_error()
    history = shell.user_ns["history"]
    history.run.eject(path, echo=None)
    losses, weights = run_here(path)
    assert losses == history.step_losses
    assert differing(weights, shell.user_ns["model"].state_dict()) == []
    text = path.read_text()
    assert "    # the one that is trained\n" in text
    assert "# the later one" in text
    assert "weights = torch.tensor([1.0, 3.0, 7.0])" in text.replace("own_", "")


def test_code_without_a_text(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "__main__", ModuleType("__main__"))
    names = vars(sys.modules["__main__"])
    exec("from torch import nn\nclass Net(nn.Linear):\n    depth = 1\n", names)
    with pytest.raises(
        EjectError, match=r"a script is made of source text, .* put the code into a file"
    ):
        ejected(path, names["Net"](6, 3))

"""The built-in models and `get_model`."""

import sys
from dataclasses import asdict

import pytest
import torch
from torch import nn, optim

import plainfit as pf
from plainfit.common.errors import ConfigError, ModelError
from plainfit.models.build import Factory, arguments_for, make_optimizer, resolve
from small import same


@pytest.fixture
def nets(tmp_path, monkeypatch):
    """A user's module `nets_of_mine` in the current folder, and a clean `sys` afterwards."""
    (tmp_path / "nets_of_mine.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "class Small(nn.Module):\n"
        "    def __init__(self, in_features, classes, hidden=3):\n"
        "        super().__init__()\n"
        "        self.lin = nn.Linear(in_features, classes)\n"
        "        self.hidden = hidden\n"
        "    def forward(self, xb):\n"
        "        return self.lin(xb.flatten(1))\n"
        "class Holder:\n"
        "    Inner = Small\n"
        "def three(): return 3\n"
        "def broken(classes): raise RuntimeError('out of ideas')\n"
        "def needs(depth): return nn.Linear(1, depth)\n"
        "ready = nn.Linear(2, 2)\n"
        "number = 5\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    sys.modules.pop("nets_of_mine", None)


@pytest.mark.parametrize("name", ["logistic", "mlp", "cnn", "resnet"])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 8, 8), (2, 17, 23)])
def test_shapes(name, shape):
    model, _ = pf.get_model(name, input_shape=shape, classes=7, device="cpu")
    assert model(torch.rand(4, *shape)).shape == (4, 7)


@pytest.mark.parametrize("name", ["logistic", "mlp", "cnn", "resnet"])
def test_the_tutorials_flat_vectors_are_the_same_images(name):
    model, _ = pf.get_model(name, device="cpu")
    model.eval()
    xb = torch.rand(4, 784)
    with torch.no_grad():
        assert model(xb).shape == (4, 10)
        assert torch.equal(model(xb), model(xb.view(4, 1, 28, 28)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 0}, "classes must be at least 1 and at most 1,000,000,000, got 0"),
        ({"classes": 2.5}, "classes must be a whole number, got 2.5"),
        ({"input_shape": (1, 0, 28)}, r"input_shape\[1\] must be at least 1 .*, got 0"),
        ({"input_shape": 28}, "input_shape must be a list, got 28"),
        ({"lr": float("nan")}, "lr must be at least 1e-38 and at most 1e.38, got nan"),
        ({"lr": float("inf")}, "lr must be .*, got inf"),
        ({"lr": -0.1}, "lr must be .*, got -0.1"),
        ({"lr": "0.1"}, "lr must be a number or null, got '0.1'"),
        ({"momentum": float("nan")}, "momentum must be at least 0 and at most 0.999999, got nan"),
        ({"weight_decay": float("inf")}, "weight_decay must be .*, got inf"),
    ],
)
def test_numbers_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigError, match=f"^{message}$"):
        pf.get_model("mlp", **options)


@pytest.mark.parametrize("name", ["cnn", "resnet"])
def test_flat_vectors_of_colour_images(name):
    model, _ = pf.get_model(name, input_shape=(3, 8, 8), device="cpu")
    assert model(torch.rand(2, 192)).shape == (2, 10)


@pytest.mark.parametrize("side", [9, 28, 64])
def test_a_convolutional_model_takes_images_of_any_size(side):
    for model in (pf.MnistCNN(), pf.ResNet()):
        assert model(torch.rand(2, 1, side, side + 3)).shape == (2, 10)


def test_a_flat_vector_that_is_no_square_is_refused():
    with pytest.raises(ValueError, match=r"must have channels .* got 783 with 1 channels"):
        pf.MnistCNN()(torch.rand(2, 783))
    with pytest.raises(ValueError, match="got 784 with 3 channels"):
        pf.ResNet(channels=3)(torch.rand(2, 784))


def test_the_models_use_every_parameter():
    for name in ("logistic", "mlp", "cnn", "resnet"):
        model, _ = pf.get_model(name, device="cpu")
        model(torch.rand(4, 1, 28, 28)).square().sum().backward()
        assert all(p.grad is not None and p.grad.any() for p in model.parameters()), name


def test_mlp_sizes_and_dropout():
    model = pf.MLP(in_features=6, classes=2, hidden=(5, 4), dropout=0.5)
    assert [layer.out_features for layer in model.hidden] == [5, 4]
    xb = torch.rand(3, 6)
    assert not torch.equal(model(xb), model(xb))
    model.eval()
    assert torch.equal(model(xb), model(xb))


def test_lambda_calls_its_function():
    assert pf.Lambda(lambda xb: xb + 1)(torch.zeros(2)).tolist() == [1, 1]


def test_resnet_has_torchvisions_names():
    names = set(pf.ResNet(blocks=(2, 2)).state_dict())
    assert names >= {
        "conv1.weight",
        "bn1.running_mean",
        "layer1.0.conv1.weight",
        "layer1.1.bn2.bias",
        "layer2.0.downsample.0.weight",
        "layer2.0.downsample.1.running_var",
        "fc.bias",
    }
    assert "layer1.0.downsample.0.weight" not in names


def test_resnet_halves_and_doubles_by_stage():
    model = pf.ResNet(blocks=(1, 2, 1), width=8)
    assert model.layer3[0].conv1.weight.shape == (32, 16, 3, 3)
    xb = model.layer2(model.layer1(torch.rand(1, 8, 16, 16)))
    assert xb.shape == (1, 16, 8, 8)


@pytest.mark.parametrize("name", ["logistic", "mlp", "cnn", "resnet"])
def test_equal_seeds_give_equal_weights_and_other_seeds_do_not(name):
    first, again, other = (pf.get_model(name, seed=s, device="cpu")[0] for s in (3, 3, 4))
    assert same(first, again)
    assert not same(first, other)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("logistic", lambda: pf.LogisticRegression(784, 10)),
        ("mlp", lambda: pf.MLP(784, 10)),
        ("cnn", lambda: pf.MnistCNN(1, 10)),
        ("resnet", lambda: pf.ResNet(1, 10)),
    ],
)
def test_initial_weights_are_those_of_the_seed_and_the_call(name, call):
    torch.manual_seed(11)
    by_hand = call()
    assert same(pf.get_model(name, seed=11, device="cpu")[0], by_hand)


def test_a_factory_rebuilds_the_model():
    model, _ = pf.get_model("resnet", input_shape=(3, 16, 16), classes=4, seed=9, device="cpu")
    factory = model.plainfit_factory
    assert factory == Factory("plainfit.models.networks:ResNet", {"classes": 4, "channels": 3}, 9)
    torch.rand(10)
    assert same(factory.build(), model)
    assert same(Factory(**asdict(factory)).build(), model)
    assert "plainfit_factory" not in model.state_dict()


@pytest.mark.parametrize(
    ("name", "kind", "lr"),
    [
        ("sgd", optim.SGD, 0.1),
        ("adam", optim.Adam, 1e-3),
        ("adamw", optim.AdamW, 1e-3),
        ("rmsprop", optim.RMSprop, 1e-3),
        ("RAdam", optim.RAdam, 1e-3),
        ("adafactor", optim.Adafactor, 0.01),
        ("ADAGRAD", optim.Adagrad, 0.01),
    ],
)
def test_optimizers_and_their_rates(name, kind, lr):
    model, opt = pf.get_model("logistic", optimizer=name, device="cpu")
    assert type(opt) is kind
    assert opt.param_groups[0]["lr"] == lr
    assert opt.param_groups[0]["params"] == list(model.parameters())
    assert make_optimizer(name, model, lr=0.5).param_groups[0]["lr"] == 0.5


def test_arguments_of_an_optimizer():
    arguments = {"betas": (0.8, 0.9), "decoupled_weight_decay": True}
    _, opt = pf.get_model("logistic", optimizer="nadam", optimizer_args=arguments, device="cpu")
    assert arguments.items() <= opt.defaults.items()
    assert opt.defaults["lr"] == optim.NAdam([torch.zeros(1)]).defaults["lr"]


def test_momentum_is_the_one_given_or_the_optimizers_own():
    model = nn.Linear(2, 2)
    assert make_optimizer("sgd", model).param_groups[0]["momentum"] == 0.9
    assert make_optimizer("sgd", model, momentum=0.0).param_groups[0]["momentum"] == 0.0
    assert make_optimizer("rmsprop", model).param_groups[0]["momentum"] == 0.0
    assert make_optimizer("rmsprop", model, momentum=0.5).param_groups[0]["momentum"] == 0.5


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_momentum_with_adam_is_an_error(optimizer):
    with pytest.raises(ConfigError, match=f"sgd and rmsprop only, got 0.9 with {optimizer}"):
        pf.get_model("cnn", optimizer=optimizer, momentum=0.9)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"model": "resnett"}, "unknown model 'resnett': .*MODULE:CALLABLE; did you mean 'resn"),
        ({"model": "zzz"}, "unknown model 'zzz': choose from logistic, mlp, tabular, cnn"),
        ({"optimizer": "sdg"}, "unknown optimizer 'sdg': .* did you mean 'sgd'"),
        ({"device": "cuda0"}, "unknown device 'cuda0': choose from auto, cpu"),
        ({"device": "meta"}, "device 'meta' holds no values"),
    ],
)
def test_unknown_names_come_with_a_suggestion(settings, says):
    with pytest.raises(ConfigError, match=says):
        pf.get_model(**settings)


def test_an_image_model_needs_images():
    with pytest.raises(ModelError, match=r"MnistCNN must be given images, .* shape \(30,\); resh"):
        pf.get_model("cnn", input_shape=(30,))
    model, _ = pf.get_model("mlp", input_shape=(30,), device="cpu")
    assert model(torch.rand(2, 30)).shape == (2, 10)


def test_a_class_is_called_with_the_arguments_it_names():
    def everything(input_shape, in_features, channels, classes, depth=2): ...

    assert arguments_for(everything, (3, 4, 5), 6) == {
        "input_shape": [3, 4, 5],
        "in_features": 60,
        "channels": 3,
        "classes": 6,
    }
    assert arguments_for(lambda: None, (3, 4, 5), 6) == {}


def test_a_class_or_function_is_accepted_as_it_is():
    model, opt = pf.get_model(pf.MnistCNN, classes=4, device="cpu")
    assert isinstance(model, pf.MnistCNN)
    assert model.conv3.out_channels == 4
    model, _ = pf.get_model(lambda in_features: nn.Linear(in_features, 2), device="cpu")
    assert model.in_features == 784
    assert len(opt.param_groups[0]["params"]) == 6


@pytest.mark.usefixtures("nets")
def test_module_callable_from_the_current_folder():
    for name in ("nets_of_mine:Small", "nets_of_mine:Holder.Inner"):
        model, _ = pf.get_model(name, input_shape=(2, 3, 4), classes=5, seed=2, device="cpu")
        assert (type(model).__name__, model.lin.in_features) == ("Small", 24)
        factory = model.plainfit_factory
        assert factory.target == "nets_of_mine:Small"
        assert factory.arguments == {"in_features": 24, "classes": 5}
        assert same(factory.build(), model)


@pytest.mark.usefixtures("nets")
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("three", "nets_of_mine:three must return a torch.nn.Module, got int"),
        ("broken", r"broken\(classes=10\) must return .* RuntimeError: out of ideas"),
        ("needs", r"needs\(\) must return a model, and failed with TypeError"),
        ("ready", "must be a class or function that returns a model, got a Linear; wrap"),
        ("number", "must be a class or function that returns a model, got a int"),
        ("Smal", "nets_of_mine has no 'Smal'; did you mean 'Small'"),
        ("Holder.Iner", "has no 'Holder.Iner'; did you mean 'Inner'"),
    ],
)
def test_a_callable_that_gives_no_model(name, says):
    with pytest.raises(ModelError, match=says):
        pf.get_model(f"nets_of_mine:{name}")


def test_a_module_that_is_not_there():
    with pytest.raises(ModelError, match=r"'no_such_module' must import, .*ModuleNotFoundError"):
        resolve("no_such_module:Net")


def test_weight_decay_leaves_biases_and_norms():
    model, opt = pf.get_model("compact", weight_decay=0.1, nesterov=True, lr=0.1, device="cpu")
    other, _ = pf.get_model("compact", device="cpu")
    groups = [
        {"params": [p for p in other.parameters() if p.dim() > 1], "weight_decay": 0.1},
        {"params": [p for p in other.parameters() if p.dim() <= 1]},
    ]
    theirs = optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True)
    for net, by in ((model, opt), (other, theirs)):
        for _ in range(3):
            net(torch.ones(4, 1, 28, 28)).square().mean().backward()
            by.step()
            by.zero_grad()
    assert same(model, other)
    assert [group["weight_decay"] for group in opt.param_groups] == [0.1, 0.0]


def test_without_it_the_optimizer_keeps_its_own_decay():
    assert [
        pf.get_model("mlp", optimizer=name, device="cpu")[1].param_groups[0]["weight_decay"]
        for name in ("sgd", "adamw")
    ] == [0, 0.01]


def test_arguments_reach_the_model():
    model, _ = pf.get_model("resnet", arguments={"width": 8, "blocks": (1, 2)}, device="cpu")
    assert model.plainfit_factory.arguments["width"] == 8
    assert model.conv1.out_channels == 8
    assert len(model.layer2) == 2

    def anything(**options):
        return nn.Linear(options["inputs"], 2)

    assert pf.get_model(anything, arguments={"inputs": 3}, device="cpu")[0].in_features == 3


@pytest.mark.parametrize("side", [4, 5, 8, 19, 20, 21, 28, 32])
def test_the_compact_model_takes_small_and_odd_images(side):
    model, _ = pf.get_model("compact", input_shape=(3, side, side + 1), device="cpu")
    assert model(torch.zeros(2, 3, side, side + 1)).shape == (2, 10)

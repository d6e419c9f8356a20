"""The public names are deliberate, and cost nothing until they are used."""

import doctest
import inspect
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import plainfit
from plainfit.data import augment
from plainfit.training import callbacks, schedules

PUBLIC = [
    "ActivationStatistics",
    "Averaging",
    "BestWeights",
    "Callback",
    "Checkpointing",
    "CompactCNN",
    "DataSplits",
    "EarlyStopping",
    "GradientAccumulation",
    "GradientClipping",
    "GradientStatistics",
    "History",
    "ImageDataset",
    "JsonLinesLog",
    "Lambda",
    "LearningRate",
    "LogisticRegression",
    "LossScaling",
    "MLP",
    "MnistCNN",
    "NonFiniteGuard",
    "OverfitOneBatch",
    "PlainfitClassifier",
    "PlainfitError",
    "PlainfitRegressor",
    "ProgressBar",
    "ResNet",
    "StepLog",
    "TensorLoader",
    "TimeLimit",
    "TorchScheduler",
    "Tracking",
    "Unfreezing",
    "WrappedDataLoader",
    "__version__",
    "accuracy",
    "evaluate",
    "fine_tune",
    "fit",
    "get_data",
    "get_model",
    "load_run",
    "loss_batch",
    "lr_find",
    "open_data",
    "predict",
    "tune",
    "validate",
]
REFERENCE = Path(__file__).parents[1].joinpath("docs", "api.md").read_text(encoding="utf-8")
HEAVY = ("optuna", "matplotlib", "sklearn", "pyarrow", "PIL", "pooch", "rich", "typer")


def run(code: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def loaded_after(code: str) -> set[str]:
    listing = run(f"{code}; import sys; print(*{{name.split('.')[0] for name in sys.modules}})")
    return set(listing.split())


def test_all_is_frozen():
    assert sorted(plainfit.__all__) == PUBLIC
    assert dir(plainfit) == sorted(plainfit.__all__)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_name_is_there(name):
    value = getattr(plainfit, name)
    assert name == "__version__" or value.__name__ == name


def public_objects():
    """Every public name with its object, and the public methods and properties of classes."""
    tops = {name: getattr(plainfit, name) for name in PUBLIC if name != "__version__"}
    tops |= {name: getattr(augment, name) for name in augment.__all__}
    tops |= {name: value for name, value in vars(callbacks).items() if inspect.isclass(value)}
    tops |= {
        name: value
        for name, value in vars(schedules).items()
        if getattr(value, "__module__", None) == schedules.__name__ and not name.startswith("_")
    }
    for name, value in tops.items():
        yield name, value
        if inspect.isclass(value):
            # Not those of its bases elsewhere, to which other libraries add: fastai to Module.
            ours = [base for base in value.__mro__ if base.__module__.startswith("plainfit.")]
            own = {attribute for base in ours for attribute in vars(base)}
            for attribute, member in inspect.getmembers(value):
                is_callable = inspect.isroutine(member) or isinstance(member, property)
                if is_callable and attribute in own and not attribute.startswith("_"):
                    yield f"{name}.{attribute}", member


def test_the_public_api_has_docstrings():
    """Ruff's D1 would ask for one on every function, private ones too."""
    without = [
        name
        for name, value in public_objects()
        if (inspect.isroutine(value) or inspect.isclass(value) or isinstance(value, property))
        and not (inspect.getdoc(value) or "").strip()
    ]
    assert without == []
    signatures = [n for n, v in public_objects() if (inspect.getdoc(v) or "").startswith(n + "(")]
    assert signatures == []  # what a dataclass without a docstring gets


def listed_in_the_reference():
    """Every function and class that `docs/api.md` lists, by name."""
    for path in re.findall(
        r"^\.\. auto(?:function|class|exception):: (\S+)$", REFERENCE, re.MULTILINE
    ):
        module, _, name = path.rpartition(".")
        yield name, getattr(import_module(module), name)
    for module in (augment, schedules):
        for name in getattr(module, "__all__", vars(module)):
            value = getattr(module, name)
            if getattr(value, "__module__", "").startswith(module.__name__):
                yield name, value


def test_the_examples_of_the_reference_hold(tmp_path, monkeypatch):
    pytest.importorskip("optuna", reason="the page has a study, and Optuna is not installed")
    monkeypatch.chdir(tmp_path)
    text = "".join(re.findall(r"^```pycon\n(.*?)^```$", REFERENCE, re.MULTILINE | re.DOTALL))
    examples = doctest.DocTestParser().get_doctest(text, {}, "api.md", "docs/api.md", 0)
    said = []
    result = doctest.DocTestRunner(verbose=False).run(examples, out=said.append)
    assert result.attempted > 50
    assert result.failed == 0, "".join(said)


def test_every_public_name_has_an_example():
    lines = re.findall(r"^(?:>>>|\.\.\.) (.*)", REFERENCE, re.MULTILINE)
    used = {word for line in lines for word in re.findall(r"\w+", line)}
    names = dict(listed_in_the_reference())
    assert {*PUBLIC} - {"__version__"} <= {*names}
    without = [
        name
        for name, value in names.items()
        if name not in used and ">>> " not in (inspect.getdoc(value) or "")
    ]
    assert without == []


def test_star_import_gives_just_them():
    names: dict = {}
    exec("from plainfit import *", names)
    assert sorted(set(names) - {"__builtins__"}) == PUBLIC


def test_an_unknown_name_is_an_attribute_error_with_a_suggestion():
    with pytest.raises(AttributeError, match="plainfit has no 'fitt'; did you mean 'fit'"):
        _ = plainfit.fitt
    assert not hasattr(plainfit, "zzzzzz")


def test_importing_the_package_does_not_import_torch():
    loaded = loaded_after("import plainfit")
    assert "plainfit" in loaded
    assert not loaded & {"torch", "numpy", *HEAVY}


def test_the_loop_loads_torch_and_nothing_optional():
    loaded = loaded_after("import plainfit; plainfit.fit; plainfit.get_data; plainfit.get_model")
    assert "torch" in loaded
    assert not loaded & set(HEAVY)


def test_errors_do_not_need_torch():
    assert "torch" not in loaded_after("from plainfit import PlainfitError")

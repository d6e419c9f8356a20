"""A run or a saved estimator from a stranger: nothing that it names is imported or called."""

import importlib.util
import io
import itertools
import json
import py_compile
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from torch import nn

import plainfit as pf
from plainfit.common.errors import ModelError, PlainfitError, TrustError
from plainfit.models import trust
from plainfit.report.comparison import Comparison
from plainfit.runs.folder import list_runs, open_run
from plainfit.runs.settings import RunConfig
from plainfit.runs.train import resume, train
from plainfit.training.checkpoints import from_bytes, to_bytes

NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self, in_features, classes):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(in_features, classes))

    def forward(self, xb):
        return self.layers(xb)
"""
FUNCTIONS = """
from pathlib import Path
from torch import nn
from {module}_layers import Net

def annotated(in_features: int, classes: int) -> nn.Module:
    return Net(in_features, classes)

def unknown(in_features, classes) -> "Nowhere":
    return plain(in_features, classes)

def plain(in_features, classes):
    Path("called").touch()
    return Net(in_features, classes)

def loss(out, yb):
    return nn.functional.cross_entropy(out, yb)
"""
BAIT = "from pathlib import Path\nPath('pwned').touch()\ndef run(*_, **__): Path('pwned').touch()\n"
CALLABLES = ("bait:run", "os:system", "torch.nn.functional:torch.hub.load", "builtins:exec",
             "shutil:rmtree", "plainfit.models.networks:torch.hub.load",
             "plainfit.runs.train:train")  # fmt: skip
number = itertools.count()


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder; what its modules are called is in no other test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return tmp_path


@pytest.fixture
def elsewhere(tmp_path_factory, monkeypatch):
    """Become another machine, with another user's state."""

    def move():
        monkeypatch.setattr(trust, "trusted_now", set())
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("elsewhere")))

    return move


def make_module(folder, text=NET, also=None):
    name = f"net_{next(number)}"
    (folder / f"{name}_layers.py").write_text(also or NET)
    (folder / f"{name}.py").write_text(text.replace("{module}", name))
    return name


def forget(name):
    for each in [each for each in sys.modules if each.startswith(name)]:
        del sys.modules[each]


def train_here(model, out="run"):
    train(RunConfig(model=model, epochs=1, out=Path(out)), echo=None)
    return Path(out)


def test_what_trained_here_runs_and_what_did_not_is_refused(here, elsewhere, plainfit):
    name = make_module(here)
    run = train_here(f"{name}:Net")
    forget(name)
    assert isinstance(open_run(run).model, nn.Module)
    elsewhere()
    forget(name)
    code, out, err = plainfit("summary", run)
    source = open_run(run).record["code"]
    assert (code, out) == (2, "")
    assert err == (
        f"error: the code of {name}:Net must be trusted before it runs, and {here / name}.py "
        f"(SHA-256 {source['sha256'][:16]}) did not train on this machine as it is now; read it, "
        "then pass --trust-code\n"
    )
    assert name not in sys.modules
    assert plainfit("summary", run, "--trust-code")[0] == 0
    assert plainfit("summary", run)[0] == 0  # remembered


@pytest.mark.parametrize("command", ["predict", "export", "resume", "eject", "fine-tune"])
def test_every_command_asks(here, elsewhere, plainfit, command):
    name = make_module(here)
    run = train_here(f"{name}:Net")
    elsewhere()
    forget(name)
    extra = {"predict": ["x.png"], "resume": ["--epochs", "2"], "eject": ["-o", "t.py"]}
    code, _, err = plainfit(command, run, *extra.get(command, []))
    assert (code, "must be trusted before it runs" in err) == (2, True)
    assert name not in sys.modules


def test_on_a_terminal_it_is_asked_and_remembered(here, elsewhere, plainfit, monkeypatch):
    name = make_module(here)
    run = train_here(f"{name}:Net")
    elsewhere()

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for answer, expected in (("n\n", 2), ("y\n", 0), ("", 0)):
        forget(name)
        monkeypatch.setattr(sys, "stdin", Terminal(answer))
        code, out, _ = plainfit("summary", run)
        assert code == expected
        assert ("Run it, now and from now on?" in out) == bool(answer)


def test_a_page_leaves_out_what_it_may_not_run(here, elsewhere, plainfit):
    name = make_module(here)
    run = train_here(f"{name}:Net")
    elsewhere()
    forget(name)
    assert plainfit("report", run)[0] == plainfit("compare", run)[0] == 0
    assert "must be trusted before it runs" in (run / "report.html").read_text()
    assert Comparison([run]).rows[0]["parameters"] == 650
    assert name not in sys.modules


def test_changed_source_is_told(here, elsewhere, plainfit):
    name = make_module(here)
    first = train_here(f"{name}:Net", "first")
    forget(name)
    (here / f"{name}.py").write_text(NET.replace("(xb)\n", "(-xb)\n"))
    with pytest.raises(TrustError, match="did not train on this machine as it is now"):
        open_run(first).factory  # noqa: B018
    train_here(f"{name}:Net", "second")
    with pytest.warns(RuntimeWarning, match=f"source of {name}:Net has changed .*{name}.py"):
        open_run(first).factory  # noqa: B018
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert f"the source of {name}:Net has changed since" in plainfit("report", first)[2]
    assert "has changed since this run was trained" in (first / "report.html").read_text()


def test_what_the_source_imports_counts_too(here):
    name = make_module(here, FUNCTIONS)
    run = train_here(f"{name}:annotated")
    assert set(open_run(run).record["code"]["files"]) == {f"{name}.py", f"{name}_layers.py"}
    forget(name)
    (here / f"{name}_layers.py").write_text(BAIT + NET)
    with pytest.raises(TrustError):
        resume(run, epochs=2)
    assert not (here / "pwned").exists()


def test_packages_and_relative_imports(here):
    package = here / f"package_{next(number)}" / "inner"
    package.mkdir(parents=True)
    (package / "parts.py").write_text(NET)
    (package / "net.py").write_text("from . import parts\nclass Net(parts.Net):\n    pass\n")
    code = trust.code_of(f"{package.parent.name}.inner.net:Net")
    inner = f"{package.parent.name}/inner"
    assert list(code.hashes) == [f"{inner}/net.py", f"{inner}/parts.py"]
    (package / "__init__.py").write_text("")
    assert f"{inner}/__init__.py" in trust.code_of(f"{package.parent.name}.inner.net:Net").hashes


def test_a_function_must_be_known_to_return_a_module(here, elsewhere):
    name = make_module(here, FUNCTIONS)
    run = train_here(f"{name}:plain")
    (here / "called").unlink()
    assert open_run(run).model  # it has returned one here
    elsewhere()
    (here / "called").unlink()
    with pytest.raises(ModelError, match=r"annotated to return one \(-> nn.Module\)"):
        open_run(run, trust_code=True).model  # noqa: B018
    assert not (here / "called").exists()
    with trust.from_source(trust.code_of(f"{name}:unknown")):
        assert not trust.returns_module(trust.resolve(f"{name}:unknown"))
    assert trust.remember("nowhere_at_all:Net") is None  # no other process can build it
    annotated = train_here(f"{name}:annotated", "annotated")
    elsewhere()
    assert open_run(annotated, trust_code=True).model


def test_trusted_source_is_compiled_from_what_was_hashed(here, elsewhere):
    name = make_module(here)
    run = train_here(f"{name}:Net")
    elsewhere()
    forget(name)
    (here / "other.py").write_text(BAIT + NET)
    cached = importlib.util.cache_from_source(str(here / f"{name}.py"))
    py_compile.compile(
        "other.py", cached, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
    )
    assert open_run(run, trust_code=True).model
    assert not (here / "pwned").exists()


def strings(value, path=()):
    """Yield the path of every string in what JSON holds."""
    if isinstance(value, str):
        yield path
    elif isinstance(value, dict | list):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from strings(each, (*path, key))


def with_value(record, path, value):
    changed = json.loads(json.dumps(record))
    *parents, last = path
    place = changed
    for key in parents:
        place = place[key]
    place[last] = value
    return changed


def use(run):
    """Do with a run whatever reads it; bad input is a PlainfitError."""
    actions = (
        lambda: list_runs(run.parent),
        lambda: Comparison([run]).rows,
        lambda: open_run(run).model,
        lambda: resume(run, epochs=2, echo=None),
        lambda: sys.modules["plainfit.eject"].eject_run(run, run.parent / "t.py", force=True),
    )
    for action in actions:
        try:
            action()
        except PlainfitError as error:
            assert "\n" not in str(error)  # noqa: PT017


SOME = [
    target if target in CALLABLES[:3] else pytest.param(target, marks=pytest.mark.soak)
    for target in CALLABLES
]


@pytest.mark.parametrize("target", SOME)
@pytest.mark.parametrize("field", ["target", "config.model"])
def test_no_callable_in_place_of_the_model_runs(here, trained_run, target, field):
    import plainfit.eject  # noqa: F401

    (here / "bait.py").write_text(BAIT)
    run = shutil.copytree(trained_run, here / "run")
    record = json.loads((run / "run.json").read_text())
    arguments = {"command": "touch pwned"}
    if field == "target":
        record["model"] |= {"target": target, "arguments": arguments}
    else:
        record["config"] |= {"model": target, "model_args": "command='touch pwned'"}
    record["state"] = "interrupted"
    (run / "run.json").write_text(json.dumps(record))
    use(run)
    assert not (here / "pwned").exists()
    assert "bait" not in sys.modules


@pytest.mark.soak
def test_no_callable_in_place_of_any_text_runs(here, trained_run):
    import plainfit.eject  # noqa: F401

    (here / "bait.py").write_text(BAIT)
    record = json.loads((trained_run / "run.json").read_text())
    paths = [*strings(record)]
    assert len(paths) > 30
    for path in paths:
        for target in CALLABLES[:2]:
            run = shutil.copytree(trained_run, here / f"run{next(number)}")
            changed = with_value(record, path, target) | {"state": "interrupted"}
            (run / "run.json").write_text(json.dumps(changed))
            use(run)
            assert not (here / "pwned").exists(), path


def fitted(model, **options):
    x = np.random.default_rng(0).normal(size=(60, 4)).astype("f4")
    return pf.PlainfitClassifier(model, epochs=1, **options).fit(x, (x[:, 0] > 0).astype(int))


def test_an_estimator_is_loaded_where_it_was_saved_or_trusted(here, elsewhere):
    name = make_module(here, FUNCTIONS)
    fitted(f"{name}:annotated").save("own.safetensors")
    assert pf.PlainfitClassifier.load("own.safetensors").model_
    elsewhere()
    forget(name)
    with pytest.raises(TrustError, match=f"{name}:Net|{name}:annotated"):
        pf.PlainfitClassifier.load("own.safetensors")
    assert name not in sys.modules
    assert pf.PlainfitClassifier.load("own.safetensors", trust_code=True).model_


@pytest.mark.parametrize("target", SOME)
@pytest.mark.parametrize("field", ["factory", "model", "loss"])
def test_no_callable_in_an_estimators_file_runs(here, target, field):
    (here / "bait.py").write_text(BAIT)
    fitted("mlp", loss=nn.functional.cross_entropy).save("a.safetensors")
    assert pf.PlainfitClassifier.load("a.safetensors").loss is nn.functional.cross_entropy
    state = from_bytes(Path("a.safetensors").read_bytes())
    if field == "factory":
        arguments = {"command": "touch pwned"}
        state["factory"] = {"target": target, "arguments": arguments, "seed": 0, "loaded": False}
    else:
        state["named"][field] = target
    Path("evil.safetensors").write_bytes(to_bytes(state))
    with pytest.raises(PlainfitError):
        pf.PlainfitClassifier.load("evil.safetensors")
    assert not (here / "pwned").exists()
    assert "bait" not in sys.modules

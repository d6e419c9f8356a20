"""What every test can ask for.

Each fixture imports what it needs: the process that hands out the tests needs none of it.
"""

import gc
import itertools
import os
import re
import shutil
import signal
import sys
import threading
import warnings
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).parents[1]
collect_ignore = ["eject/scripts"]  # programs, not modules: they train when imported
FIRST = [
    f"test_{name}.py"
    for name in ("runs", "programs", "levels", "program_scripts", "readme", "cli", "verify",
                 "refusals", "fine_tuning", "notebooks", "kills", "launcher", "processes")
]  # fmt: skip
# A busy machine is no failure: no test has to end within Hypothesis's 200 ms.
hypothesis.settings.register_profile("plainfit", deadline=None)
hypothesis.settings.load_profile("plainfit")
# A shell that runs the tests in the background has them, and what they start, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    """Start with the files that take longest, so that no process is left alone with one."""
    items.sort(key=lambda item: FIRST.index(item.path.name) if item.path.name in FIRST else 99)


def pytest_collection_finish():
    """Keep the garbage collector from what was imported, which it would go through each time."""
    gc.freeze()
    gc.set_threshold(10_000)  # not at every 700 objects: a twelfth of all time was spent in it


@pytest.fixture(scope="session")
def _caches(tmp_path_factory):
    """A name of a folder for each test: `mktemp` looks through all folders before it makes one."""
    folder = tmp_path_factory.mktemp("caches")
    return (str(folder / str(number)) for number in itertools.count())


@pytest.fixture(autouse=True)
def _own_data_cache(_caches, monkeypatch):
    """No test reads or fills the user's cache of downloads."""
    monkeypatch.setenv("PLAINFIT_DATA", next(_caches))


@pytest.fixture(scope="session", autouse=True)
def _own_state(tmp_path_factory):
    """No test reads or changes what the user trusts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_wait_for_the_disk():
    """A sync takes 4 ms, and there are thousands; without power cuts nothing is lost without it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def _empty_pictures():
    """Pictures take longer to draw than a small run to train: `curves` has the curves."""
    from plainfit.common import plots
    from plainfit.data import pictures

    real = plots.curves
    with pytest.MonkeyPatch.context() as patch:
        for module, name in ((plots, "curves"), (pictures, "histograms")):
            patch.setattr(module, name, lambda *_: plots.Picture((0.1, 0.1)))
        yield real


@pytest.fixture(scope="session", autouse=True)
def _digits_read_once():
    """The digits are read from text, hundreds of times."""
    import sklearn.datasets

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sklearn.datasets, "load_digits", cache(sklearn.datasets.load_digits))
        yield


@pytest.fixture(scope="session", autouse=True)
def _commands_built_once():
    """Typer makes all commands anew at each call of one, which takes longer than most of them."""
    import typer.main

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.main, "get_command", cache(typer.main.get_command))
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_seeds_for_absent_devices():
    """Torch keeps each seed for them, with the stack: a hundred looks at files, and 0.7 ms."""
    import torch

    devices = (torch.cuda, torch.cuda.random), (torch.xpu, torch.xpu.random), (torch.mtia,) * 2
    with pytest.MonkeyPatch.context() as patch:
        for device, module in devices:
            if not device.is_available():
                patch.setattr(module, "_lazy_call", lambda *_, **__: None, raising=False)
        yield


@pytest.fixture
def curves(_empty_pictures, monkeypatch):
    """Draw the curves of losses and metrics in this test."""
    monkeypatch.setattr("plainfit.common.plots.curves", _empty_pictures)


@pytest.fixture(autouse=True)
def _looks_here(monkeypatch):
    """The first look at a script that is written is taken within the test."""
    from ejecting import run_alone_here

    monkeypatch.setattr("plainfit.eject.run.run_alone", run_alone_here)


@pytest.fixture(scope="session")
def mnist_folder():
    """The folder with MNIST's four IDX files; the test is skipped where there is none."""
    folder = Path(os.environ.get("PLAINFIT_MNIST", ROOT.parent / "shared" / "data" / "mnist"))
    if not (folder / "train-images-idx3-ubyte.gz").exists():
        pytest.skip(f"real MNIST is not at {folder}; name its folder in PLAINFIT_MNIST")
    return folder


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory):
    """A finished run of two epochs on the digits; copy the folder to change it."""
    from plainfit.runs.settings import RunConfig
    from plainfit.runs.train import train

    folder = tmp_path_factory.mktemp("trained") / "run"
    train(RunConfig(model="logistic", epochs=2, out=folder), echo=None)
    return folder


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory):
    """A finished run that the tests of the pages read."""
    from pages import quiet

    return quiet(tmp_path_factory.mktemp("digits") / "first", schedule="cosine", lr=0.05)


@pytest.fixture
def copied(digits_run, tmp_path):
    """A copy of that run, to damage."""
    return shutil.copytree(digits_run, tmp_path / "copied")


def check_remedies(arguments, errors):
    """Check that what is said of a command names no options but its own."""
    from typer.main import get_command

    from plainfit.cli import app

    command = get_command(app)
    for argument in arguments:
        if argument not in getattr(command, "commands", ()):
            break
        command = command.commands[argument]
    own = {o for p in command.params for o in (*p.opts, *p.secondary_opts)}
    for line in errors.splitlines():
        if line.startswith(("error: ", "warning: ")):
            line = re.sub(r"(plainfit [a-z-]+ |torchrun |in a training).*", "", line)
            named = {*re.findall(r"(?<![\w-])--[a-z][a-z-]+", line)}
            assert named <= own | {"--debug"} | {*map(str, arguments)}, line


@pytest.fixture
def plainfit(monkeypatch, capsys, tmp_path):
    """Run the command in this process, in an empty folder: (exit code, stdout, stderr)."""
    from plainfit.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    before = set(sys.modules)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["plainfit", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        code, out, errors = end.value.code, *capsys.readouterr()
        check_remedies(arguments, errors)
        return code, out, errors

    yield run
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]  # of the user's folder


@pytest.fixture
def server(monkeypatch):
    """A web server on this machine: `pages` by path, `asked` what was asked for, `url` its root."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            web.asked.append(self.path)
            body = web.pages.get(self.path)
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write((body or b"")[: web.cut_at])

        def log_message(self, *args):
            pass

    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(variable, "127.0.0.1")
    web = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    web.pages, web.asked, web.cut_at = {}, [], None
    web.url = f"http://127.0.0.1:{web.server_address[1]}/"
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield web
    web.shutdown()
    thread.join()
    web.server_close()

"""The scripts in the docs are those that a run gives now."""

import ast
import importlib.util
from pathlib import Path

from ejecting import code_lines
from plainfit.common.devices import cpu_threads
from plainfit.eject.recipe import from_folder
from plainfit.eject.run import write
from plainfit.runs.settings import RunConfig
from plainfit.runs.train import train
from trainings import StopAt

DOCS = Path(__file__).parents[2] / "docs/eject"
LINES = {"loop": 92, "optim": 130, "tensors": 250}  # at most, without blanks and comments


def below_header(text):
    """Return a script without its docstring, which has a hash and a fingerprint."""
    return text.splitlines()[ast.parse(text).body[0].end_lineno :]


def test_the_scripts_in_the_docs_are_up_to_date(mnist_folder, tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("write_docs", DOCS / "write.py")
    writer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(writer)
    assert {f"{level}.py" for level in writer.LEVELS} == {
        path.name for path in DOCS.glob("*.py") if path.name != "write.py"
    }
    monkeypatch.chdir(tmp_path)
    run = Path("runs/cnn")
    config = RunConfig(**writer.SETTINGS, data_dir=mnist_folder, out=run)
    with cpu_threads(1):
        train(config, echo=None, callbacks=[StopAt(1)])
    # Below the header, a script says nothing of the losses: one step is as good as all.
    recipe = from_folder(run)
    recipe.outcome.losses *= config.epochs * recipe.steps
    for level in writer.LEVELS:
        path = write(recipe, Path(f"{level}.py"), level, True).path
        new = path.read_text().replace(mnist_folder.absolute().as_posix(), "mnist")
        old = (DOCS / path.name).read_text()
        assert below_header(new) == below_header(old), f"run docs/eject/write.py: {path.name}"
        assert code_lines(path) <= LINES[level]

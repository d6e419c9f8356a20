"""The gallery: each program beside its hand loop, and as a script."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

from plainfit.common.errors import EjectError

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "examples.md"
PROGRAMS = {path.stem: path for path in sorted((ROOT / "docs" / "examples").glob("*.py"))}
REFUSED = {
    "gan": "step",
    "lbfgs": "LBFGS",
    "stream": "steps_per_epoch, max_steps",
    "transformer": "mappings",
}
MOST_LINES = 60


@pytest.fixture(params=PROGRAMS)
def program(request, monkeypatch):
    """A program as a module of its own, which eject reads the source of."""
    name = request.param
    if name == "transformer":
        pytest.importorskip("transformers")
    spec = importlib.util.spec_from_file_location(f"example_{name}", PROGRAMS[name])
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def test_each_program_equals_its_hand_loop_and_ejects_or_is_refused(program, tmp_path):
    name = program.__name__.removeprefix("example_")
    history = program.train(echo=None)
    assert history.step_losses == program.by_hand()
    assert len({*history.step_losses}) == len(history.step_losses)
    if name in REFUSED:
        with pytest.raises(EjectError, match=REFUSED[name]):
            history.run.eject(tmp_path / "train.py", echo=None)
    else:
        script = history.run.eject(tmp_path / "train.py", verify=True, echo=None)
        assert max(map(len, script.read_text().splitlines())) <= 100


def test_the_programs_are_short_and_listed_with_what_eject_makes_of_them():
    rows = dict(re.findall(r"^\| \[(\w+)\]\(.*\|.*\| (.*) \|$", PAGE.read_text(), re.M))
    assert rows.keys() == PROGRAMS.keys()
    for name, path in PROGRAMS.items():
        assert len(path.read_text().splitlines()) <= MOST_LINES, name
        wanted = f"refused: {REFUSED[name]}" if name in REFUSED else "verified"
        assert rows[name].replace("`", "").startswith(wanted), name
        assert f"examples/{name}.py" in PAGE.read_text()

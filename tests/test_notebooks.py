"""The notebooks are built from their source and the rungs.

`make docs` executes them as they are, and shows what their cells print.
"""

import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest
import torch

from plainfit.common.errors import PlainfitError
from plainfit.ladder.catalog import RUNGS
from plainfit.ladder.climb import NOTEBOOKS
from plainfit.training.history import History

FOLDER = Path(__file__).parents[1] / "notebooks"
SPEC = importlib.util.spec_from_file_location("build_notebooks", FOLDER / "build.py")
build = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(build)
SOURCE = build.SOURCE.read_text(encoding="utf-8")


def cells(language):
    text = (FOLDER / NOTEBOOKS[language]).read_text(encoding="utf-8")
    return json.loads(text)["cells"]


def test_the_committed_notebooks_are_up_to_date(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["build.py", "--check"])
    assert build.main() == 0, capsys.readouterr().out


def test_an_outdated_notebook_is_found(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(build, "FOLDER", tmp_path)
    monkeypatch.setattr(sys, "argv", ["build.py"])
    assert build.main() == 0
    assert {path.name for path in tmp_path.iterdir()} == set(NOTEBOOKS.values())
    monkeypatch.setattr(sys, "argv", ["build.py", "--check"])
    assert build.main() == 0
    (tmp_path / NOTEBOOKS["en"]).write_text("{}")
    assert build.main() == 1
    assert capsys.readouterr().out.startswith("what_is_torch_nn.ipynb: out of date")


@pytest.mark.parametrize("language", NOTEBOOKS)
def test_there_are_no_outputs(language):
    for cell in cells(language):
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


def test_both_languages_have_the_same_cells():
    english, chinese = cells("en"), cells("zh-CN")
    assert [cell["cell_type"] for cell in english] == [cell["cell_type"] for cell in chinese]
    for one, other in zip(english, chinese, strict=True):
        text = "".join(other["source"])
        if one["cell_type"] == "code" or text.startswith("```diff"):
            assert one["source"] == other["source"]
        else:
            assert re.search("[\u4e00-\u9fff]", text)
            assert not re.search("[\u4e00-\u9fff]", "".join(one["source"]))
            assert text.count("$") == "".join(one["source"]).count("$")  # the same formulas


def test_what_a_rung_adds_is_in_the_notebook():
    code = ["".join(cell["source"]) for cell in cells("en") if cell["cell_type"] == "code"]
    known = set()
    for rung in RUNGS:
        parts = [part.strip("\n") for _, part in build.statements(rung.label)]
        new = [part for part in parts if part not in known]
        assert new, rung
        for part in new:
            assert any(part in cell for cell in code), (rung.label, part)
        known = set(parts)


def test_every_rung_has_a_heading_and_a_diff():
    texts = ["".join(cell["source"]) for cell in cells("en") if cell["cell_type"] == "markdown"]
    for rung in RUNGS:
        (place,) = (i for i, text in enumerate(texts) if f"## Rung {rung.label}: " in text)
        assert texts[place].splitlines()[0] == f"## Rung {rung.label}: {rung.adds}"
        if rung.number > 1:
            assert texts[place + 1].startswith("```diff\n")
            assert re.search(r"^[-+]", texts[place + 1], re.MULTILINE)


@pytest.mark.parametrize(
    ("directive", "message"),
    [
        ("# rung 05: optin", "rung 05 has no 'optin': choose from F, MnistLogistic, .*"),
        ("# rung 16: model", "unknown rung '16': .*"),
    ],
)
def test_a_wrong_directive_says_so(directive, message):
    with pytest.raises(PlainfitError, match=message):
        build.build(f"# %%\n{directive}\n", "en")


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # matplotlib
def test_the_cells_run(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("plainfit.ladder.climb.usual_epochs", lambda samples: 4)
    monkeypatch.setattr("plainfit.ladder.climb.STEPS", 5)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    threads, names = torch.get_num_threads(), {"__name__": "__main__"}
    code = ["".join(cell["source"]) for cell in cells("en") if cell["cell_type"] == "code"]
    try:
        for number, text in enumerate(code):
            exec(compile(text, f"cell {number}", "exec"), names)
    finally:
        torch.set_num_threads(threads)
    assert names["args"].epochs == 4
    assert len(code) > 30
    out = capsys.readouterr().out
    assert "valid_loss" in out
    assert out.count(" holds\n") == 16
    assert "BROKEN" not in out


def test_a_notebook_shows_a_history_by_itself(curves):
    history = History()
    history.epochs.append({"epoch": 0, "train_loss": 0.5, "valid_loss": 0.4})
    assert history.plot()._repr_png_().startswith(b"\x89PNG")

"""`plainfit ladder` and `plainfit notebook`, as a person or a script uses them."""

import json
import re
import runpy
import sys

import numpy as np
import pytest

from plainfit.ladder import catalog, climb
from plainfit.ladder.catalog import RUNGS
from plainfit.ladder.climb import usual_epochs


def test_the_table(plainfit):
    code, out, err = plainfit("ladder", "--rungs", "0,4-6", "--epochs", "2", "--seed", "5")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "data   digits: 1,259 train, 269 valid"
    assert lines[1].startswith("each   2 epochs, seed 5")
    heading = next(line for line in lines if line.startswith("rung"))
    assert heading.split() == [
        "rung", "adds", "lines", "seconds", "loss", "accuracy", "relation", "result", "measured",
    ]  # fmt: skip
    rows = lines[lines.index(heading) + 1 : -2]
    assert [row[:2] for row in rows] == ["00", "04", "05", "06"]
    assert re.fullmatch(
        r"05 optim       optim\.SGD +31 +\d\.\d\d  0\.\d{4}    0\.\d{4}  bitwise  holds   40 steps",
        rows[2],
    )
    assert lines[-1] == "4 of 4 relations hold"


def test_json(plainfit):
    code, out, _ = plainfit("ladder", "--rungs", "13-14", "--epochs", "1", "--json")
    result = json.loads(out)
    assert (code, result["hold"]) == (0, True)
    last = result["rungs"][-1]
    assert (last["rung"], last["name"], last["relation"]) == (14, "plainfit", "bitwise")
    assert last["lines"] < result["rungs"][0]["lines"] / 5
    assert last["valid_loss"] == result["rungs"][0]["valid_loss"]
    assert last["seconds"] > 0
    assert 0 < last["accuracy"] < 1


@pytest.mark.parametrize(
    ("selection", "numbers"),
    [
        ("0-3,9,13-14", [3, 9, 13]),
        pytest.param("0-15", list(range(3, 14)), marks=pytest.mark.soak),
    ],
)
def test_the_scratch_column(selection, numbers, plainfit, monkeypatch):
    monkeypatch.setattr(climb, "STEPS", 30)
    code, out, _ = plainfit("ladder", "--scratch", "--epochs", "1", "--json", "--rungs", selection)
    rows = json.loads(out)["rungs"]
    assert code == 0, rows
    assert [row["rung"] for row in rows] == numbers
    assert {row["relation"] for row in rows if row["rung"] < 10} == {"bitwise"}
    assert {row["relation"] for row in rows if row["rung"] >= 10} == {"float64"}
    assert all(row["slowdown"] > 0 for row in rows)


def test_a_broken_relation_is_exit_code_1(plainfit, own_rungs):
    path = own_rungs / "r03_module.py"
    path.write_text(path.read_text().replace("lr = 0.5", "lr = 0.4"))
    code, out, _ = plainfit("ladder", "--rungs", "2-4", "--epochs", "1")
    assert code == 1
    words = re.findall(r"^\d\d .* (holds|BROKEN|FAILED) ", out, re.MULTILINE)
    assert words == ["holds", "BROKEN", "BROKEN"]
    assert "1 of 3 relations hold" in out


def test_a_rung_that_fails_is_named_and_the_others_go_on(plainfit, own_rungs):
    path = own_rungs / "r03_module.py"
    path.write_text(path.read_text().replace("loss = loss_func(", "loss = los_func("))
    line = path.read_text().splitlines().index("        loss = los_func(pred, yb)") + 1
    code, out, err = plainfit("ladder", "--rungs", "2-5", "--epochs", "1")
    assert code == 1
    words = re.findall(r"^\d\d .* (holds|BROKEN|FAILED) ", out, re.MULTILINE)
    assert words == ["holds", "FAILED", "BROKEN", "holds"]
    assert "rung 03 failed" in out
    assert err.startswith("rung 03 failed:\nTraceback")
    assert f'File "{path}", line {line}, in <module>' in err
    assert "NameError: name 'los_func' is not defined" in err
    assert "runner.py" not in err


def test_show_and_diff_print_the_files(plainfit):
    assert plainfit("ladder", "show", "05") == (0, RUNGS[5].source, "")
    assert plainfit("ladder", "show", "optim")[1] == RUNGS[5].source
    _, unified, _ = plainfit("ladder", "diff", "5", "06")
    assert "+from torch.utils.data import TensorDataset\n" in unified
    assert "-        end_i = start_i + bs\n" in unified
    _, columns, _ = plainfit("ladder", "diff", "5", "06", "--side-by-side")
    (row,) = (line for line in columns.splitlines() if "xb, yb = train_ds[i * bs" in line)
    assert row[:100].rstrip() == "        start_i = i * bs"
    assert row[101] == "|"


def test_a_copy_runs_and_is_not_overwritten(plainfit, tmp_path, monkeypatch, capsys):
    code, out, _ = plainfit("ladder", "copy", "07", "mine")
    program, arrays = tmp_path / "mine/r07_dataloader.py", tmp_path / "mine/digits.npz"
    assert code == 0
    assert program.read_text() == RUNGS[7].source
    command = out.splitlines()[-1].removeprefix("next   python ").split()
    monkeypatch.setattr(sys, "argv", [*command, "--epochs", "1"])
    runpy.run_path(command[0], run_name="__main__")
    assert capsys.readouterr().out.startswith("before: loss 2.")
    program.write_text("mine now")
    before = arrays.stat().st_mtime_ns
    code, _, err = plainfit("ladder", "copy", "07", "mine")
    assert (code, err) == (
        2, "error: --force must be set to overwrite mine/r07_dataloader.py, which exists\n",
    )  # fmt: skip
    assert program.read_text() == "mine now"
    assert plainfit("ladder", "copy", "07", "mine", "--force")[0] == 0
    assert program.read_text() == RUNGS[7].source
    assert arrays.stat().st_mtime_ns == before
    assert plainfit("ladder", "copy", "07", program)[2] == (
        f"error: the copy needs a folder, and {program} is a file; choose another\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ladder", "show", "16"], "unknown rung '16': choose from 00 data, 01 tensors, .*"),
        (["ladder", "show", "optin"], "unknown rung 'optin': .*; did you mean 'optim'?"),
        (["ladder", "--rungs", "0-16"], "unknown rung '16': .*"),
        (["ladder", "--rungs", "7-3"], "rungs must be in ascending order, as in 3-7, got '7-3'"),
        (["ladder", "--rungs", "14", "--scratch"], "--scratch is for rungs 3 to 13, got .*"),
        (["ladder", "--seed", "-1"], "--seed must be at least 0 and at most 9,.*,807, got -1"),
        (["ladder", "--epochs", "0"], "Invalid value for '--epochs': .*"),
        (["ladder", "--data", "none.npz"], "the data must exist, .* none.npz"),
        (["ladder", "--data", "mnits"], "unknown data 'mnits': .*; did you mean 'mnist'?"),
        (["ladder", "--data", "rgb.npz"], "the ladder needs gray, square images .* 3x4x4 .*"),
        (["ladder", "--data", "floats.npz"], "the ladder needs gray, square images .*"),
        (["ladder", "shw"], "No such command 'shw'.*"),
        (["notebook", "--lang", "zh"], "unknown language 'zh': choose from en, zh-CN.*"),
    ],
)
def test_bad_input_is_one_line(arguments, message, plainfit, tmp_path):
    labels = np.arange(40) % 2
    np.savez(tmp_path / "rgb.npz", x=np.zeros((40, 3, 4, 4), np.uint8), y=labels)
    np.savez(tmp_path / "floats.npz", x=np.zeros((40, 16), np.float32), y=labels)
    code, out, err = plainfit(*arguments)
    assert (code, out) == (2, "")
    assert re.fullmatch(rf"error: {message.replace('?', '[?]')}\n", err), err


def test_a_small_data_set_gets_more_epochs():
    assert usual_epochs(50_000) == 2
    assert usual_epochs(1259) == 20
    assert usual_epochs(1) == 400


def test_every_rung_has_its_program_and_its_line():
    names = {path.name for path in catalog.RUNGS_FOLDER.glob("*.py")}
    assert {rung.path.name for rung in RUNGS} == names
    assert [rung.number for rung in RUNGS] == list(range(16))
    assert all(rung.adds and len(rung.adds) < 38 for rung in RUNGS)


@pytest.mark.parametrize("language", climb.NOTEBOOKS)
def test_the_notebook_is_copied_once(language, plainfit, tmp_path):
    name = climb.NOTEBOOKS[language]
    arguments = ["notebook", "here", "--lang", language, "--no-open"]
    assert plainfit(*arguments)[:2] == (0, f"copied here/{name}\n")
    copy = tmp_path / "here" / name
    assert copy.read_bytes() == climb.installed_notebook(language).read_bytes()
    copy.write_text("my notes")
    assert plainfit(*arguments)[1] == f"here/{name} exists already and is kept\n"
    assert copy.read_text() == "my notes"
    assert plainfit(*arguments, "--force")[0] == 0
    assert len(copy.read_text()) > 1000


def test_without_jupyter_there_is_one_line(plainfit, monkeypatch, tmp_path):
    monkeypatch.setattr(climb, "JUPYTER", ("no_such_jupyter",))
    code, out, err = plainfit("notebook")
    assert code == 2
    assert out == "copied what_is_torch_nn.ipynb\n"
    assert err == (
        "error: Jupyter is not installed; to open the notebook, "
        "pip install 'plainfit[notebook]', then jupyter lab what_is_torch_nn.ipynb\n"
    )


def test_jupyter_is_started_on_the_copy(plainfit, monkeypatch, tmp_path):
    (tmp_path / "stand_in.py").write_text("import sys; open('opened', 'w').write(sys.argv[1])")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(climb, "JUPYTER", ("no_such_jupyter", "stand_in"))
    assert plainfit("notebook")[0] == 0
    assert (tmp_path / "opened").read_text() == "what_is_torch_nn.ipynb"

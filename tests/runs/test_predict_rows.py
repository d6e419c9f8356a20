"""`plainfit predict RUN new.csv`: rows become inputs as in the training, and come out in order."""

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from safetensors import safe_open

import plainfit as pf
from plainfit.runs.folder import open_run
from plainfit.runs.settings import RunConfig
from plainfit.runs.train import train

pytestmark = pytest.mark.filterwarnings("always::RuntimeWarning")
N = 80
RNG = np.random.default_rng(0)


def rows_of(n=N):
    frame = pd.DataFrame({"id": [f"p{i:03}" for i in range(n)], "x": RNG.normal(size=n)})
    frame["age"] = np.where(np.arange(n) % 6 == 1, np.nan, RNG.integers(20, 70, n))
    frame["code"] = [f"{i % 4:02}" for i in RNG.integers(0, 9, n)]
    frame["day"] = pd.date_range("2026-01-01", periods=n).strftime("%d.%m.%Y")
    frame["paid"] = RNG.random(n) < 0.5
    frame["target"] = np.where(frame.x + RNG.normal(size=n) > 0, "yes", "no")
    return frame


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The rows of a table with columns of every kind, and a run on it."""
    folder, frame = tmp_path_factory.mktemp("rows"), rows_of()
    frame.to_csv(folder / "rows.csv", index=False)
    options = {"drop": "id", "categorical": "code", "model": "mlp", "epochs": 1, "batch_size": 16}
    train(RunConfig(data=str(folder / "rows.csv"), out=folder / "run", **options), echo=None)
    return frame, folder / "run"


def printed(text):
    return list(csv.DictReader(io.StringIO(text)))


def chances(rows):
    return torch.tensor([[float(row[f"p({name})"]) for name in ("no", "yes")] for row in rows])


def test_a_row_has_the_bits_of_the_validation_set(trained, plainfit, tmp_path):
    frame, folder = trained
    run = open_run(folder)
    data = run.open_data()
    valid = data.valid.tensors[0]
    scores = pf.predict(run.model, data.valid, output="probabilities", bs=32)
    inputs = {tuple(row.tolist()): at for at, row in enumerate(all_inputs(run))}
    rows = [inputs[tuple(row.tolist())] for row in valid]
    part = frame.iloc[rows].drop(columns="target")
    part.to_csv("valid.csv", index=False)
    code, out, errors = plainfit("predict", folder, "valid.csv")
    assert code == 0, errors
    assert torch.equal(chances(printed(out)), scores)
    assert [row["id"] for row in printed(out)] == part.id.tolist()
    assert torch.equal(pf.predict(run, part, output="probabilities"), scores)


def all_inputs(run):
    from plainfit.runs.inputs import of_table, read_as_trained

    return of_table(run, read_as_trained(run, Path(run.config.data)), None, False)[0]


def test_files_of_every_kind(trained, plainfit, monkeypatch):
    frame, folder = trained
    frame = frame.drop(columns="target")
    frame.to_csv("plain.csv", index=False)
    frame[frame.columns[::-1]].to_csv("turned.tsv", index=False, sep="\t")
    frame.to_csv("semi.csv", index=False, sep=";", decimal=",")
    pyarrow.parquet.write_table(pa.Table.from_pandas(frame), "rows.parquet")
    frame.to_json("rows.jsonl", orient="records", lines=True)
    wanted = printed(plainfit("predict", folder, "plain.csv")[1])
    assert len(wanted) == N
    for name in ("turned.tsv", "semi.csv", "rows.parquet", "rows.jsonl"):
        code, out, errors = plainfit("predict", folder, name)
        assert code == 0, errors
        assert printed(out) == wanted, name
    frame.assign(x=frame.x.round(3)).to_csv("plain.csv", index=False)
    frame.assign(x=[f"{x:.3f}" for x in frame.x]).to_csv("odd.csv", index=False, sep="^")
    text = Path("odd.csv").read_text().replace(".", ",").replace(",01,2026", ".01.2026")
    Path("odd.csv").write_text(text.replace(",02,2026", ".02.2026").replace(",03,2026", ".03.2026"))
    options = ("--delimiter", "^", "--decimal", ",")
    assert printed(plainfit("predict", folder, "odd.csv", *options)[1]) == printed(
        plainfit("predict", folder, "plain.csv")[1]
    )
    lines = io.BytesIO(Path("rows.jsonl").read_bytes())
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(lines))
    assert printed(plainfit("predict", folder, "-")[1]) == wanted


def test_what_groups_rows_is_written_too(plainfit, tmp_path):
    rows_of().to_csv("rows.csv", index=False)
    options = {"group_by": "id", "categorical": "code", "model": "logistic"}
    train(RunConfig(data="rows.csv", out=tmp_path / "run", epochs=1, **options), echo=None)
    found = json.loads(plainfit("predict", "run", "rows.csv", "--json")[1])
    assert [row["id"] for row in found] == rows_of().id.tolist()


def test_numbers_that_do_not_tell_are_read_as_in_the_training(plainfit, tmp_path):
    frame = rows_of()[["x", "target"]].round(3)
    frame.to_csv("rows.csv", index=False, sep=";", decimal=",")
    train(RunConfig(data="rows.csv", out=tmp_path / "run", epochs=1, model="logistic"), echo=None)
    Path("point.csv").write_text("x\n1.234\n2.345\n")
    Path("comma.csv").write_text("x;z\n1,234;1\n2,345;2\n")
    wanted = printed(plainfit("predict", "run", "point.csv")[1])
    code, out, errors = plainfit("predict", "run", "comma.csv")
    assert (code, printed(out)) == (0, wanted), errors


def test_a_column_beside_the_results_has_another_name(plainfit, tmp_path):
    frame = rows_of()[["x", "id", "target"]].rename(columns={"id": "class"})
    frame.to_csv("rows.csv", index=False)
    settings = {"epochs": 1, "model": "logistic", "drop": "class", "target": "target"}
    train(RunConfig(data="rows.csv", out=tmp_path / "run", **settings), echo=None)
    code, out, errors = plainfit("predict", "run", "rows.csv")
    assert (code, out) == (2, "")
    assert "error: rows.csv: a column that the training left out is written beside" in errors
    assert "'class' is the name of one; rename it" in errors


def test_what_is_written(trained, plainfit, tmp_path):
    frame, folder = trained
    frame.drop(columns="target").to_csv("new.csv", index=False)
    found = json.loads(plainfit("predict", folder, "new.csv", "--json")[1])
    assert list(found[0]) == ["id", "class", "probabilities"]
    dated = frame.assign(id=pd.date_range("2026-01-01", periods=N)).drop(columns="target")
    dated.to_parquet("dated.parquet")
    dates = json.loads(plainfit("predict", folder, "dated.parquet", "--json")[1])
    assert dates[0] == found[0] | {"id": "2026-01-01 00:00:00"}
    assert all(
        max(row["probabilities"], key=row["probabilities"].get) == row["class"] for row in found
    )
    for name, read in {
        "out.csv": pd.read_csv,
        "out.parquet": pd.read_parquet,
        "out.jsonl": lambda path: pd.read_json(path, lines=True),
    }.items():
        assert plainfit("predict", folder, "new.csv", "-o", name)[:2] == (
            0,
            f"wrote  {name}: 80 rows\n",
        )
        rows = read(name)
        assert list(rows) == ["id", "class", "p(no)", "p(yes)"]
        assert rows["id"].tolist() == frame.id.tolist()
        assert rows["class"].tolist() == [row["class"] for row in found]
        np.testing.assert_allclose(rows["p(no)"], [row["probabilities"]["no"] for row in found])


def test_what_is_ignored_filled_or_unknown_is_counted(trained, plainfit):
    frame, folder = trained
    frame = frame.assign(more=1, other="a", x=frame.x.where(frame.index > 2))
    frame.loc[:4, "code"] = "77"
    frame.to_csv("new.csv", index=False)
    code, out, errors = plainfit("predict", folder, "new.csv")
    assert (code, len(printed(out))) == (0, N)
    fill = open_run(folder).preprocessing["columns"]["x"]["fill"]
    assert errors.splitlines() == [
        f"warning: column 'x': 3 of 80 values missing, first in data row 1: filled with {fill:g}",
        "warning: column 'age': 14 of 80 values missing, first in data row 2: filled with 39, and "
        "marked in an input of its own",
        "warning: column 'code': 5 rows have a text that no training row has",
        "warning: columns that the training did not use are ignored: 'more', 'other'",
        "warning: the target 'target' is not used; plainfit.evaluate(run, 'new.csv') scores it",
    ]


def test_what_does_not_fit_is_refused_and_nothing_is_written(trained, plainfit, tmp_path):
    frame, folder = trained
    bad = frame.drop(columns=["x", "code"]).assign(age="old", day="2026-31-01")
    bad.to_csv("bad.csv", index=False)
    frame.to_csv("new.csv", index=False)
    before = sorted(tmp_path.iterdir())
    for arguments, *says in (
        (("bad.csv", "-o", "out.csv"), "a column 'x'", "'age' must be numbers: 80 of 80 are not, ",
         "'old' in data row 1", "a column 'code'", "'day' must be dates written as %d.%m.%Y, as in",
         "'2026-31-01' in data row 1"),
        (("new.csv", "-o", "out.txt"), "--out must end with .csv, .parquet, .jsonl, got out.txt"),
        (("new.csv", "-o", "new.csv"), "--out must be another file than the data"),
        (("new.csv", "-o", "none/out.csv"), "the folder none must exist"),
        (("new.csv", "bad.csv"), "a table is predicted alone"),
        (("nowhere.csv",), "nowhere.csv: the table cannot be read"),
        (("new.png",), "predict takes images, and"),
    ):  # fmt: skip
        code, out, errors = plainfit("predict", folder, *arguments)
        assert (code, out, errors.count("error: ")) == (2, "", 1), errors
        assert all(text in errors for text in says), errors
    assert sorted(tmp_path.iterdir()) == before


def test_what_does_not_fit_can_be_named_as_a_gap(trained, plainfit):
    frame, folder = trained
    frame = frame.drop(columns="target").astype({"x": str, "paid": str})
    frame.loc[2, "x"], frame.loc[3, "paid"], frame.loc[4, "day"] = "inf", "maybe", "31.02.2026"
    frame.to_csv("new.csv", index=False)
    code, _, errors = plainfit("predict", folder, "new.csv")
    for text in (
        "'x' has an infinite one in data row 3; in a text file --na inf,-inf takes it for a gap",
        "'paid' must be numbers: 1 of 80 are not, 'maybe' in data row 4; mend them, or name texts",
        "'day' must be dates written as %d.%m.%Y, as in the training: 1 of 80 are not, '31.02.2026",
    ):
        assert text in errors
    assert code == 2
    code, out, errors = plainfit("predict", folder, "new.csv", "--na", "inf,maybe,31.02.2026")
    frame.loc[2, "x"], frame.loc[3, "paid"], frame.loc[4, "day"] = "", "", ""
    frame.to_csv("gaps.csv", index=False)
    assert (code, out, errors) == plainfit("predict", folder, "gaps.csv")
    assert code == 0


def test_a_run_of_an_older_plainfit_predicts(trained, plainfit, tmp_path):
    """Its columns had a mean and a std or categories, and no gaps."""
    frame = trained[0][["x", "target"]].assign(code=[f"c{i % 70}" for i in range(N)])
    frame["same"] = frame.target + "!"
    frame.to_csv("rows.csv", index=False)
    options = {"categorical": "code,same", "model": "mlp", "epochs": 1}
    train(RunConfig(data="rows.csv", out=tmp_path / "run", **options), echo=None)
    wanted = plainfit("predict", "run", "rows.csv")
    record = json.loads((tmp_path / "run/run.json").read_text())
    del record["data"]["preprocessing"]["columns"]["x"]["fill"]
    for name in (
        "delimiter",
        "encoding",
        "decimal",
        "na",
        "drop",
        "categorical",
        "numeric",
        "missing",
    ):
        del record["config"][name]
    (tmp_path / "run/run.json").write_text(json.dumps(record))
    assert plainfit("predict", "run", "rows.csv") == wanted
    assert plainfit("resume", "run", "--epochs", 2)[0] == 0
    frame.assign(x=np.nan).to_csv("gaps.csv", index=False)
    assert "column 'x' has 80 missing" in plainfit("predict", "run", "gaps.csv")[2]


def test_images_are_written_too(trained_run, plainfit, tmp_path):
    from PIL import Image

    (tmp_path / "taken").mkdir()
    for at in range(3):
        Image.new("L", (8, 8), 70 * at).save(tmp_path / "taken" / f"{at}.png")
    found = json.loads(plainfit("predict", trained_run, "taken", "--json")[1])
    assert [row["image"] for row in found] == [f"taken/{at}.png" for at in range(3)]
    assert plainfit("predict", trained_run, "taken", "-o", "out.csv")[0] == 0
    rows = pd.read_csv("out.csv")
    assert list(rows) == ["image", "class", *(f"p({i})" for i in range(10))]
    assert rows["p(3)"].tolist() == [row["probabilities"]["3"] for row in found]


def test_an_export_comes_with_the_preprocessing_alone(trained, plainfit, tmp_path):
    frame, folder = trained
    shutil.copytree(folder, tmp_path / "run")
    code, out, errors = plainfit("export", "run", "--out", "net.safetensors")
    assert code == 0, errors
    assert 'prepare(table, facts["preprocessing"]) of prepare.py' in out
    with safe_open("net.safetensors", framework="pt") as file:
        facts = json.loads(file.metadata()["plainfit"])
    alone: dict = {}
    exec(compile(Path("prepare.py").read_text(), "prepare.py", "exec"), alone)
    found = alone["prepare"](frame, facts["preprocessing"])
    assert found.dtype == np.float32
    assert torch.equal(torch.from_numpy(found), all_inputs(open_run(folder)))
    again = ("export", "run", "--out", "other.safetensors")
    assert plainfit(*again)[0] == 0
    Path("prepare.py").write_text("mine")
    assert "set to overwrite prepare.py" in plainfit(*again, "--out", "third.safetensors")[2]
    assert Path("prepare.py").read_text() == "mine"


def test_a_script_of_a_run_on_a_table_gives_its_bits(trained, plainfit, tmp_path):
    shutil.copytree(trained[1], tmp_path / "run")
    code, out, errors = plainfit(
        "eject", "run", "--level", "data", "--verify", "--out", "script.py"
    )
    assert code == 0, errors
    assert "equal" in out

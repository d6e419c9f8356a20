"""The page on file formats, against the files of a run."""

import json
import re
from pathlib import Path
from typing import NotRequired, get_args, get_origin, is_typeddict

from plainfit.common.files import JOURNAL, LOCK
from plainfit.common.schema import hints_of
from plainfit.runs import export, folder
from plainfit.runs.record import Record

PAGE = Path(__file__).parents[2].joinpath("docs", "formats.md").read_text(encoding="utf-8")


def names_in(section):
    """The names in the first column of the table of a section."""
    text = re.split("^## ", PAGE, flags=re.MULTILINE)
    (part,) = [each for each in text if each.startswith(f"{section}\n")]
    cells = [line.split("|")[1] for line in part.splitlines() if line.startswith("| ")]
    return {name.rstrip("/") for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def fields_of(hint, name=""):
    """The fields of a type of the record, by the names that lead there."""
    if get_origin(hint) is NotRequired:
        hint = get_args(hint)[0]
    within = next(filter(is_typeddict, (hint, *get_args(hint))), None)
    if within is None:
        return {name}
    start = f"{name}." if name else ""
    return {each for key, part in hints_of(within).items() for each in fields_of(part, start + key)}


def test_the_page_has_every_file_of_a_run_and_no_other(trained_run):
    known = {*folder.OWN, folder.CHECKPOINTS, folder.TRACKED, LOCK} - {JOURNAL}
    written = {f"export{kind.suffix}" for kind in export.FORMATS.values()}
    written |= {"report.html", "prepare.py", ".plainfit-HEX.tmp"}
    assert names_in("The run folder") == known | written
    assert {path.name for path in trained_run.iterdir()} <= known


def test_the_page_has_every_field_of_the_record_and_no_other(trained_run):
    record = json.loads((trained_run / "run.json").read_text("utf-8"))
    fields = fields_of(Record) | {f"fingerprint.{name}" for name in record["fingerprint"]}
    assert names_in("The record") == fields
    assert record.keys() <= {field.partition(".")[0] for field in fields}
    for name, part in record.items():
        if any(field.startswith(f"{name}.") for field in fields) and isinstance(part, dict):
            assert {f"{name}.{key}" for key in part} - {"data.targets"} <= fields
    assert all(f"`{name}`" in PAGE for name in record["versions"])


def test_the_page_has_every_column_of_the_logs_and_no_other(trained_run):
    first, *_ = (trained_run / "metrics.jsonl").read_text("utf-8").splitlines()
    row = json.loads(first)
    assert names_in("The epochs") == row.keys() - {"accuracy"} | {"METRIC"}
    header = (trained_run / "steps.csv").read_text("utf-8").splitlines()[0]
    assert f"the header `{header}`" in PAGE


def test_the_page_says_what_a_checkpoint_holds(trained_run):
    for path in (trained_run / "checkpoints").iterdir():
        data = path.read_bytes()
        size = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + size])["__metadata__"]
        assert f"`{metadata['format']}`" in PAGE
        state = json.loads(metadata["state"])
        (said,) = re.findall(r"`state`, as JSON: (.*?) that a resume compares", PAGE, re.DOTALL)
        named = {"random": "random generators", "setup": "the setup"}
        for name in state.keys() - {"loss", "others", "other_gradients"}:
            assert named.get(name, name) in said, name

"""The columns of a run's table as fields to fill in: what they take, and rows to start from."""

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plainfit.common.errors import DataError, PlainfitError, RunError, raised_as
from plainfit.data.alone import ISO
from plainfit.data.tables.preparing import kind_of
from plainfit.data.tables.reading import Table
from plainfit.data.tables.values import Dates, Texts, values_of
from plainfit.runs.folder import Run
from plainfit.runs.inputs import read_as_trained

MOST_ROWS = 50  # to start from
POINTS = 25  # of a curve
REACH = 2  # standard deviations around the mean, where the data is gone


def fields_of(run: Run) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the columns as fields, and rows of the table as values of these by name.

    A field has `name` and `kind`: a `number` and a `date` have `low` and `high`, a `category` has
    its `choices`, and there is `text`. If the table is gone, a range is that of usual values, by
    what the run recorded (`is_known` is false), and there is one row of them.

    Raises:
        RunError: if the run is not of a table.
    """
    if not run.columns:
        raise RunError(f"a form has the columns of a table, and {run.folder} was trained on none")
    try:
        table: Table | None = read_as_trained(run, Path(run.config.data))
    except PlainfitError:
        table = None
    fields, columns = [], {}
    for name, made in run.columns.items():
        values = None
        if table is not None and name in table.columns:
            values = values_of(name, table.columns[name], kind_of(made), table.decimal)
        fields.append({"name": name} | field_of(made, values))
        columns[name] = some_values(made, values)
    count = min(map(len, columns.values()))
    return fields, [{name: of[at] for name, of in columns.items()} for at in range(count)]


def field_of(made: dict[str, Any], values: Any) -> dict[str, Any]:
    if "length" in made:
        return {"kind": "text"}
    if "categories" in made:
        return {"kind": "category", "choices": made["categories"]}
    learned = made.get("date", {}).get("days", made)
    if isinstance(values, Dates):
        values = values.parts["days"]
    given = np.array([]) if values is None else values[~np.isnan(values)]
    is_known, reach = len(given) > 0, REACH * learned["std"]
    low, high = learned["mean"] - reach, learned["mean"] + reach
    if is_known:
        low, high = float(given.min()), float(given.max())
    if "date" not in made:
        whole = is_known and bool((given == given.round()).all())
        return {"kind": "number", "low": low, "high": high, "whole": whole, "is_known": is_known}
    with_time = "hour" in made["date"]
    ends = {"low": date_text(low, with_time), "high": date_text(high, with_time)}
    return {"kind": "date", "is_known": is_known, **ends, "with_time": with_time}


def some_values(made: dict[str, Any], values: Any) -> list[Any]:
    if isinstance(values, Texts):
        return [values.names[code] for code in values.codes[:MOST_ROWS]]
    days = values.parts["days"] if isinstance(values, Dates) else values
    if days is None and "length" in made:
        return [""]
    if days is None and "categories" in made:
        return list(made["categories"][:1])
    if days is None:
        learned = made.get("date", {}).get("days", made)
        days = np.array([learned.get("fill", learned["mean"])])
    numbers: list[float] = days[:MOST_ROWS].tolist()
    given = [None if number != number else number for number in numbers]
    if "date" not in made:
        return [number if number is None else float(f"{number:.6g}") for number in given]
    with_time = "hour" in made["date"]
    return [None if number is None else date_text(number, with_time) for number in given]


def date_text(days: float, with_time: bool) -> str:
    moment = np.datetime64(round(days * 86_400), "s")
    return str(moment.astype("M8[m]" if with_time else "M8[D]"))


def varied(field: dict[str, Any]) -> list[Any]:
    if field["kind"] == "category":
        return list(field["choices"])
    if field["kind"] == "number":
        points: NDArray[Any] = np.linspace(field["low"], field["high"], POINTS)
        if field["whole"]:
            points = np.unique(points.round())
        return list(points.tolist())
    if field["kind"] == "date":
        first, last = (np.datetime64(field[end], "s").astype(int) for end in ("low", "high"))
        days = np.unique(np.linspace(first, last, POINTS)) / 86_400
        return [date_text(day, field["with_time"]) for day in days.tolist()]
    return []


def as_written(run: Run, row: dict[str, Any]) -> dict[str, Any]:
    written = dict(row)
    for name, made in run.columns.items():
        form, value = made.get("format", ISO), row.get(name)
        if form != ISO and isinstance(value, str) and value:
            with raised_as(DataError, f"{name!r} must be a date as 2025-01-31"):
                written[name] = datetime.fromisoformat(value).strftime(form)
    return written

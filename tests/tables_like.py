"""Tables as people have them, from formulas, and those of scikit-learn: a frame and its target."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine

from plainfit.runs.baseline import baselines
from plainfit.runs.prepare import completed
from plainfit.runs.settings import RunConfig
from plainfit.runs.train import train

Table = tuple[pd.DataFrame, str]


def logistic(draw: np.random.Generator, score: np.ndarray) -> np.ndarray:
    return draw.random(len(score)) < 1 / (1 + np.exp(-score))


def titanic_like(count: int = 900) -> Table:
    """Passengers: gaps in age and deck, a skewed fare, and a rule with an interaction."""
    draw = np.random.default_rng(0)
    grade = draw.choice([1, 2, 3], count, p=[0.25, 0.2, 0.55])
    female, age = draw.random(count) < 0.36, draw.gamma(6, 5, count).clip(0.5, 80).round(1)
    fare = (np.exp(4.4 - 0.8 * grade + draw.normal(0, 0.5, count))).round(4)
    relatives, port = (
        draw.poisson(0.7, count),
        draw.choice(["S", "C", "Q"], count, p=[0.7, 0.2, 0.1]),
    )
    score = 3.2 * female - 1.1 * (grade - 2) - 1.2 * female * (grade == 3) - 1.6
    score += 2 * (age < 10) - 0.02 * (age - 30) - 0.4 * (relatives > 2) + 0.4 * (port == "C")
    frame = pd.DataFrame({"class": grade, "sex": np.where(female, "female", "male"), "age": age})
    frame = frame.assign(relatives=relatives, fare=fare, port=port)
    frame["deck"] = np.where(draw.random(count) < 0.7, None, draw.choice([*"ABCDEF"], count))
    frame.loc[draw.random(count) < 0.2, "age"] = np.nan
    frame["survived"] = np.where(logistic(draw, 1.3 * score), "yes", "no")
    return frame, "survived"


def housing_like(count: int = 3000) -> Table:
    """Sales of houses: dates, a district of 25, gaps, and a skewed price."""
    draw = np.random.default_rng(1)
    area, built = draw.lognormal(4.9, 0.35, count).round(0), draw.integers(1900, 2022, count)
    district = draw.integers(0, 25, count)
    quality = draw.choice(["poor", "fair", "good", "excellent"], count, p=[0.1, 0.4, 0.4, 0.1])
    days = draw.integers(0, 3650, count)
    worth = pd.Series(quality).map({"poor": -0.25, "fair": 0, "good": 0.15, "excellent": 0.4})
    log = 11 + 0.9 * np.log(area / 130) + draw.normal(0, 0.3, 25)[district] + worth.to_numpy()
    log += 0.003 * (built - 1960) + 0.3 * days / 3650 + draw.normal(0, 0.12, count)
    frame = pd.DataFrame({"sold": pd.Timestamp("2010-01-01") + pd.to_timedelta(days, "D")})
    frame["sold"] = frame.sold.dt.strftime("%Y-%m-%d")
    frame = frame.assign(area=area, built=built, district=[f"d{at}" for at in district])
    frame = frame.assign(quality=quality, garage=draw.choice(["none", "one", "two"], count))
    frame["lot"] = (area * draw.lognormal(1, 0.5, count)).round(0)
    frame.loc[draw.random(count) < 0.15, "lot"] = np.nan
    frame.loc[draw.random(count) < 0.05, "built"] = np.nan
    frame["price"] = np.exp(log).round(-2)
    return frame, "price"


def adult_like(count: int = 6000) -> Table:
    """People: nine categories and numbers, capital gains that are mostly 0, a sixth positive."""
    draw = np.random.default_rng(2)
    age, years = draw.gamma(8, 5, count).clip(17, 90).round(), draw.integers(4, 17, count)
    hours = draw.normal(40, 11, count).clip(1, 99).round()
    gain = np.where(draw.random(count) < 0.08, draw.lognormal(8.5, 1, count).round(), 0)
    married, job = draw.random(count) < 0.48, draw.integers(0, 14, count)
    country = np.where(draw.random(count) < 0.9, "here", draw.choice([*"ABCDEFGHIJKLMNOP"], count))
    score = 0.35 * (years - 10) + 1.9 * married + draw.normal(0, 0.6, 14)[job] - 2.9
    score += 0.04 * (hours - 40) - 0.0022 * (age - 48) ** 2 + 3 * (gain > 5000)
    frame = pd.DataFrame({"age": age, "education": years, "hours": hours, "gain": gain})
    frame["marital"] = np.where(married, "married", draw.choice(["never", "divorced"], count))
    frame["job"] = np.where(draw.random(count) < 0.06, "?", [f"job {at}" for at in job])
    frame["country"], frame["sex"] = country, draw.choice(["male", "female"], count)
    frame["income"] = np.where(logistic(draw, 1.2 * score), ">50K", "<=50K")
    return frame, "income"


def california_like(count: int = 4000) -> Table:
    """Districts: incomes, ages, rooms and places, with a value that depends on the distance."""
    draw = np.random.default_rng(3)
    income, age = draw.lognormal(1.25, 0.45, count), draw.integers(1, 53, count)
    rooms, people = draw.lognormal(1.65, 0.25, count), draw.lognormal(7, 0.7, count).round()
    lat, long = draw.uniform(32.5, 42, count), draw.uniform(-124.3, -114.3, count)
    near = np.hypot(lat - 34, long + 118.2), np.hypot(lat - 37.7, long + 122.4)
    value = 0.45 * income + 1.4 * np.exp(-near[0]) + 1.8 * np.exp(-near[1]) + 0.006 * age
    value += 0.1 * np.sqrt(rooms) - 0.04 * (lat - 37) + draw.normal(0, 0.25, count)
    frame = pd.DataFrame({"income": income, "age": age, "rooms": rooms, "population": people})
    frame = frame.assign(latitude=lat, longitude=long, value=value.clip(0.15, 5)).round(4)
    return frame, "value"


def of_sklearn(load: Callable[..., object]) -> Callable[[], Table]:
    def table() -> Table:
        frame = load(as_frame=True).frame
        if load is not load_diabetes:
            frame = frame.astype({"target": str})
        return frame, "target"

    return table


TABLES: dict[str, Callable[[], Table]] = {
    "titanic-like": titanic_like,
    "housing-like": housing_like,
    "adult-like": adult_like,
    "california-like": california_like,
    "wine": of_sklearn(load_wine),
    "breast cancer": of_sklearn(load_breast_cancer),
    "diabetes": of_sklearn(load_diabetes),
}


def scores_of(name: str, seed: int, folder: Path) -> dict[str, float]:
    """Return accuracy or R2 on the test rows: of a training by default, and of the baselines."""
    frame, target = TABLES[name]()
    path = folder / "rows.csv"
    frame.to_csv(path, index=False)
    task = "regression" if frame[target].nunique() > 3 else "classification"
    settings = {"data": str(path), "target": target, "task": task, "seed": seed, "split_seed": seed}
    config = RunConfig(out=folder / f"{name}-{seed}", **settings)
    metric = "r2" if task == "regression" else "accuracy"
    data = completed(config).open_data()
    _, linear, boosted = baselines(replace(data, valid=data.test))
    test = train(config, echo=None).test
    return {"net": test[metric], "linear": linear[metric], "boosting": boosted[metric]}

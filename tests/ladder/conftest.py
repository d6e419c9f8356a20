"""Small data for the ladder."""

import numpy as np
import pytest

from plainfit.data.open_data import open_data
from plainfit.ladder import catalog
from plainfit.ladder.catalog import RUNGS
from plainfit.ladder.climb import write_data


@pytest.fixture(scope="session")
def digits_file(tmp_path_factory):
    """scikit-learn's digits as the file that the rungs read."""
    path = tmp_path_factory.mktemp("ladder") / "digits.npz"
    write_data(open_data("digits"), path)
    return path


@pytest.fixture(scope="session")
def large_file(tmp_path_factory):
    """Dim noise in images of MNIST's size: nothing to learn, but rounded as MNIST is."""
    generator = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 330), ("valid", 100)):
        arrays[f"x_{part}"] = generator.integers(0, 64, (count, 1, 28, 28), dtype=np.uint8)
        arrays[f"y_{part}"] = np.arange(count) % 10
    path = tmp_path_factory.mktemp("ladder") / "large.npz"
    np.savez(path, **arrays)
    return path


@pytest.fixture
def own_rungs(monkeypatch, tmp_path):
    """A folder with copies of the rungs, which the ladder then runs."""
    folder = tmp_path / "rungs"
    folder.mkdir()
    for rung in RUNGS:
        (folder / rung.path.name).write_text(rung.source, encoding="utf-8")
    monkeypatch.setattr(catalog, "RUNGS_FOLDER", folder)
    return folder

"""What every test can ask for."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _own_data_cache(tmp_path_factory, monkeypatch):
    """No test reads or fills the user's cache of downloads."""
    monkeypatch.setenv("PLAINFIT_DATA", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def mnist_folder():
    """The folder with MNIST's four IDX files; the test is skipped where there is none."""
    folder = Path(os.environ.get("PLAINFIT_MNIST", ROOT.parent / "shared" / "data" / "mnist"))
    if not (folder / "train-images-idx3-ubyte.gz").exists():
        pytest.skip(f"real MNIST is not at {folder}; name its folder in PLAINFIT_MNIST")
    return folder

"""What the tests of both pages share."""

import shutil

import pytest

from pages import quiet


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory):
    return quiet(tmp_path_factory.mktemp("digits") / "first", schedule="cosine", lr=0.05)


@pytest.fixture
def copied(digits_run, tmp_path):
    """A run to damage."""
    return shutil.copytree(digits_run, tmp_path / "copied")

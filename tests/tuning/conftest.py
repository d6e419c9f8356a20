"""The page of a study is most of what a short one costs: leave it out where a test does not ask."""

import pytest


@pytest.fixture
def study_page():
    """Draw the page of a study after all."""


@pytest.fixture(autouse=True)
def _no_page(request, monkeypatch):
    if "study_page" not in request.fixturenames:
        monkeypatch.setattr("plainfit.tuning.work.write_page", lambda *_: None)

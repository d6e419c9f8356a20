"""Pictures are most of what a short study costs: leave them out where a test does not ask."""

import pytest

from plainfit.common import plots


@pytest.fixture
def study_page():
    """Draw the page of a study after all."""


@pytest.fixture(autouse=True)
def _no_pictures(request, monkeypatch):
    monkeypatch.setattr(plots, "curves", lambda *_: plots.Picture())
    if "study_page" not in request.fixturenames:
        monkeypatch.setattr("plainfit.tuning.work.write_page", lambda *_: None)

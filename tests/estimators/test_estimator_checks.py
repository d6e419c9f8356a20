"""scikit-learn's own checks of an estimator."""

from functools import partial

import pytest
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks

import plainfit as pf


def expected_failures(estimator):
    if isinstance(estimator, pf.PlainfitRegressor):
        return {
            "check_regressor_multioutput": "asks for float64, and a prediction has the precision "
            "of the model, float32"
        }
    return {}


@pytest.fixture(autouse=True)
def as_near_as_float32(monkeypatch):
    """A row at another place in a batch may round otherwise; 1e-7 is for float64."""
    compare = estimator_checks.assert_allclose_dense_sparse
    monkeypatch.setattr(
        estimator_checks, "assert_allclose_dense_sparse", partial(compare, rtol=1e-5)
    )


@parametrize_with_checks(
    [pf.PlainfitClassifier(epochs=8, lr=0.02), pf.PlainfitRegressor(epochs=8, lr=0.02)],
    expected_failed_checks=expected_failures,
)
def test_scikit_learn_agrees(estimator, check):
    check(estimator)


@pytest.mark.soak
@parametrize_with_checks(
    [pf.PlainfitClassifier(), pf.PlainfitRegressor()], expected_failed_checks=expected_failures
)
def test_scikit_learn_agrees_with_the_default_epochs(estimator, check):
    check(estimator)

"""scikit-learn's own checks of an estimator."""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

import plainfit as pf


def expected_failures(estimator):
    name = "check_sample_weight_equivalence_on_dense_data"
    weighted = {name: "equal but for the rounding of float32"}
    if isinstance(estimator, pf.PlainfitRegressor):
        return weighted | {
            "check_regressor_multioutput": "asks for float64, and a prediction has the precision "
            "of the model, float32"
        }
    return weighted


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

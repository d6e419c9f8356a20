"""Estimators for scikit-learn: arrays and data frames in, `fit`, `predict`, `score`.

They turn their parameters into the tutorial's three lines: `get_data`, `get_model`, `fit`
(docs/decisions/0017-scikit-learn.md).
"""

from plainfit.estimators.base import PlainfitEstimator
from plainfit.estimators.kinds import PlainfitClassifier, PlainfitRegressor

__all__ = ["PlainfitClassifier", "PlainfitEstimator", "PlainfitRegressor"]

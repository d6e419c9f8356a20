"""`plainfit.PlainfitClassifier` and `PlainfitRegressor`."""

from estimator import RATES, Setting, report

import plainfit as pf


def make(
    setting: Setting, features: int, outputs: int
) -> pf.PlainfitClassifier | pf.PlainfitRegressor:
    """Return an estimator; it finds the numbers of features and outputs by itself."""
    kind = pf.PlainfitRegressor if outputs == 1 else pf.PlainfitClassifier
    return kind(
        setting.model,
        epochs=setting.epochs,
        batch_size=setting.batch_size,
        optimizer=setting.optimizer,
        lr=RATES[setting.optimizer],
        momentum=0.0 if setting.optimizer == "sgd" else None,
    )


report(make)

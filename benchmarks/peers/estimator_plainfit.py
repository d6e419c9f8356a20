"""`plainfit.PlainfitClassifier`."""

from estimator import BATCH_SIZE, HIDDEN, RATE, arguments, report

import plainfit as pf

args = arguments()
report(
    args,
    lambda: pf.PlainfitClassifier(
        "mlp",
        model_args={"hidden": HIDDEN},
        epochs=args.epochs,
        batch_size=BATCH_SIZE,
        optimizer="adam",
        lr=RATE,
    ),
)

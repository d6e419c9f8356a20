"""`plainfit.PlainfitClassifier`."""

from estimator import RATE, arguments, report

import plainfit as pf

args = arguments()
report(
    args,
    lambda: pf.PlainfitClassifier(
        args.model,
        epochs=args.epochs,
        batch_size=args.batch_size,
        optimizer=args.optimizer,
        lr=RATE,
        momentum=0.0 if args.optimizer == "sgd" else None,
    ),
)

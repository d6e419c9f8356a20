"""From a training that happened to a plain PyTorch script of it."""

from plainfit.eject.run import RUNGS, eject_fit, eject_run

__all__ = ["RUNGS", "eject_fit", "eject_run"]

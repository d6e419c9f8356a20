"""From a training that happened to a plain PyTorch script of it, which is checked by running."""

from plainfit.eject.run import Ejected, eject_all, eject_fit, eject_run, verified
from plainfit.eject.rungs import RUNGS

__all__ = ["RUNGS", "Ejected", "eject_all", "eject_fit", "eject_run", "verified"]

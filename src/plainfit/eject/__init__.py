"""From a training that happened to a plain PyTorch script of it, which is checked by running."""

from plainfit.eject.replacements import LEVELS
from plainfit.eject.run import Ejected, eject_all, eject_fit, eject_run, verified

__all__ = ["LEVELS", "Ejected", "eject_all", "eject_fit", "eject_run", "verified"]

"""From a run to a plain script: the way out."""

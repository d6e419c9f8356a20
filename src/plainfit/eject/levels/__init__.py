"""The levels of an ejected script below `data`: parts of torch, written out."""

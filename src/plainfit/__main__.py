"""`python -m plainfit` is the `plainfit` command."""

from plainfit.cli import main

main()

"""What every other room uses: errors, files, devices, random numbers, plots."""

__version__ = "0.2.0"

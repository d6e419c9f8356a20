"""A look at each script that is ejected here."""

from ejecting import looks_here as looks_here

"""HTML pages about runs: one for a run, one that compares several. They need no other file."""

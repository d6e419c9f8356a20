"""Tables: from a file with a column to predict to inputs and classes."""

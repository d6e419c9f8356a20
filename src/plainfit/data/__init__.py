"""Reading data sets, splitting them, and serving them in batches."""

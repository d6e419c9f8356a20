"""Reading datasets, splitting them, and serving them in batches."""

"""A run: settings, folder, train, resume, predict, export."""

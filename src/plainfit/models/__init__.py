"""Models: networks, building by name, summaries, weights, transfer."""

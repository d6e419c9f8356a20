"""The loop and everything beside it."""

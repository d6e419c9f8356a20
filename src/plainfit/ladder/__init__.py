"""The tutorial as programs, and the proof that each is what it says of the one before."""

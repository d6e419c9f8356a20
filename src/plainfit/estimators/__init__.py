"""Trainings as scikit-learn has them: fit, predict, score."""

"""Build a training set."""

"""evergrow keeps machine-learning models alive in production."""

"""Register a model version."""

"""Look at a model in service."""

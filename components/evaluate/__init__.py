"""Judge a model."""

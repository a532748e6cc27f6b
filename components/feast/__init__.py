"""Feast's own servers over the stores of an environment."""

"""Fit a model."""

"""Feast declarations of the toy model."""

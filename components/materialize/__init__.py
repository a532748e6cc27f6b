"""Materialize features into the online store."""

"""Feast declarations: entities, sources, views, on-demand views and one feature service per model."""

"""Directed graphs of components; nothing else."""

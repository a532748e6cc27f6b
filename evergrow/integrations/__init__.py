"""Adapters: one outside system a file, and in-memory twins of every port."""

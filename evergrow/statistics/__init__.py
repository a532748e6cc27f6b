"""Intervals and tests for means of dependent observations."""

"""Decide what is to be done about what was seen."""

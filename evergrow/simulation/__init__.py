"""Worlds whose truth is known, for trying a policy before there is history; and for testing those who claim to see."""

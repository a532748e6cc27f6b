"""Data: what a source gives, checked and kept; and what of it was known at an instant."""

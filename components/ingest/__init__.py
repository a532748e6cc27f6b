"""Ingest raw data."""

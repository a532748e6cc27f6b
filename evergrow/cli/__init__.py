"""The `evergrow` command."""

from evergrow.cli.app import app, main

__all__ = ["app", "main"]

"""Tests. A package, since some installed distributions bring a `tests` of their own."""

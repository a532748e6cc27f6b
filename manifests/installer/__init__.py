"""Puts evergrow on a cluster: see manifests/README.md."""

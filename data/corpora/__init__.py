"""Manifests of published corpora and ``datasets``: ``python -m data.corpora``."""

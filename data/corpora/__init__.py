"""Corpora to manifests, from folders as they unpack or from ``datasets``: ``python -m data.corpora``."""

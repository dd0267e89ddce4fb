"""Losses and the CLUIT task."""

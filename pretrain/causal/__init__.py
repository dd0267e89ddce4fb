"""Causal speech encoders: students of frozen ones."""

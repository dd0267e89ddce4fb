"""Causal speech encoders, distilled from frozen ones."""

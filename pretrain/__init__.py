"""Encoders learned without labels, and the recogniser."""

"""Robustness, false alarms and audibility of the watermark."""

"""Probing tasks for frozen encoders: ``python -m pretrain.probe TASK``."""

"""Scoring of converted speech: similarity, intelligibility, quality, pitch, beside toplines and baselines."""

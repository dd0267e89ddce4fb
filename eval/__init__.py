"""Scoring of converted speech: similarity, intelligibility, quality and pitch, with toplines and baselines beside."""

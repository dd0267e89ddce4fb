"""Scores of a vocoder's resynthesis of recordings: spectral distances, PESQ, pitch."""

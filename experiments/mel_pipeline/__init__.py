"""Two-stage conversion with mel and vocoder, compared with wave-to-wave at equal training time."""

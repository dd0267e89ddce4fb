"""Conversion by way of a mel and a vocoder, beside wave to wave at equal training time."""

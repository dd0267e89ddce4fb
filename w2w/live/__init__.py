"""Speaking with another voice while one speaks: ``python -m w2w.live``."""

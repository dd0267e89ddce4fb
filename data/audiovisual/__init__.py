"""Audio-visual scenes from videos, VGGSound, paired files or ``datasets``."""

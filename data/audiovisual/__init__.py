"""Scenes, seen and heard together, from videos, VGGSound, paired files or ``datasets``."""

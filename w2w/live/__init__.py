"""Live voice conversion from a microphone or a file: ``python -m w2w.live``."""

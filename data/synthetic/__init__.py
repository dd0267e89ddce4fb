"""Synthetic data: voices of espeak and Kokoro, sentences, drawn faces, the audio-visual world."""

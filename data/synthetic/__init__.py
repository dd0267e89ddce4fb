"""What is made without any download: espeak's voices, sentences, drawn faces, the audio-visual world."""

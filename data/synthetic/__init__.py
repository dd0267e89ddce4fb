"""What is synthesised: espeak's and Kokoro's voices, sentences, drawn faces, the audio-visual world."""

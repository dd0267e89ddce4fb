"""What content codes tell: the words, the voice, and what a recogniser's encoder hears."""

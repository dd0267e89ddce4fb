"""A style space tied to CLIP: voices from words and pictures, words for voices."""

"""A tie between a converter's voice embeddings and CLIP: voices from text or pictures, words for voices."""

"""Whether voices from words and faces sound as they say."""

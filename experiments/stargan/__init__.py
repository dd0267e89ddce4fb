"""StarGAN's output is its input: the published form beside remedies."""

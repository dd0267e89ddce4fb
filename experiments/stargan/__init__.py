"""StarGAN copies its input: the published form compared with remedies."""

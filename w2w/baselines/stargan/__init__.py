"""StarGAN on spectrograms (experiment 47c97768): one generator, three label groups, any of them optional."""

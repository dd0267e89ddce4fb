"""WaveNet: the network, its outputs and conditioning, and ways to generate with it."""

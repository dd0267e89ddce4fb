"""WaveNet: the network, its output distributions and conditioning, and sampling from it."""

"""WaveNet: the network, its conditioning, distributions, sampling and uses."""

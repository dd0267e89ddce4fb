"""Compiled kernels for generation and training on a CPU."""

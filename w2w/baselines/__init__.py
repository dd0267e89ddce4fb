"""Baselines for wave-to-wave conversion: CLUIT on mels and StarGAN, each with a vocoder."""

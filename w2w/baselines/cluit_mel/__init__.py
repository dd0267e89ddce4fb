"""CLUIT on log-mels: contrastive learning for unsupervised translation, a vocoder behind it."""

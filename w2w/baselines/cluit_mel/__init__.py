"""CLUIT on log-mels: contrastive learning for unsupervised translation, followed by a vocoder."""

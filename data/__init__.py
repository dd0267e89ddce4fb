"""Audio files, frontends, manifests, batches and synthetic corpora."""

"""Self-supervised speech encoders, and recognisers built on them."""

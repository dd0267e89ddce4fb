"""The algorithms that train vocoders, one file for each kind."""

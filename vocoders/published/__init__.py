"""Published vocoders' files: whose tensors they hold, and which network they are for."""

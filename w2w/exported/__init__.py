"""A converter's step as a graph of a fixed number of hops: run by onnxruntime, or written to a file."""

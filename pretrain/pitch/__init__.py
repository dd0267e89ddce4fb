"""F0 estimation: a classical tracker, and a causal network trained on labels of non-causal trackers."""

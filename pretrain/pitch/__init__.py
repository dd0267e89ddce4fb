"""F0: a classical tracker, and a causal network that learned from a better one."""

"""Speed and memory: each module measures and prints a table."""

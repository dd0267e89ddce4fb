"""What measures speed and memory; each module prints a table."""

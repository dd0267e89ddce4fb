"""The converter's networks."""

"""Networks of the converter."""

"""What each part of CLUIT on mels does: variants that differ from a base in one thing."""

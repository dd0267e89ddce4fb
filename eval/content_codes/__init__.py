"""Linear probes of content codes for phones, recogniser features and the speaker."""

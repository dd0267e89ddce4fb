"""What the watermark survives and what it costs."""

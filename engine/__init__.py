"""What every trainer shares: configuration, the loop, checkpoints, tracking and streaming layers."""

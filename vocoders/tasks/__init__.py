"""Training algorithms of the vocoders, one file per kind, with their configuration and presets."""

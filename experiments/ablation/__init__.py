"""What each part of the converter's training buys, at equal cost."""

"""What pretraining buys the converter: the same training with and without it."""

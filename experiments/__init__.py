"""Studies and ablations: each a command that trains, scores and prints a table; nothing imports them."""

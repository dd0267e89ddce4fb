"""Speech representations learned without labels, and what is built on them."""

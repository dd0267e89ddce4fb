"""Tasks that show what an encoder learned: ``python -m pretrain.probe TASK``."""

"""The training loop, its steps, checkpoints, evaluation and loggers."""

"""The training loop: transformers' Trainer, and what a run writes to disk."""

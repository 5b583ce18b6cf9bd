"""Data: sources of samples, replayable views of them, and batches."""

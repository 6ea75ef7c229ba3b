"""Inference: a fitted preprocessor and a model as one pipeline, saved, loaded and applied the same way everywhere."""

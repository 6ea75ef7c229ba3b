"""Data: reading it, splitting it, preparing it."""

"""Checks of untrusted model files, run before the library that reads them."""

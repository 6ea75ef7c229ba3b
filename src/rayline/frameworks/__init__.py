"""Adapters, one file each: the only modules that depend on a framework."""

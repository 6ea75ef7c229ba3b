"""Engines: tables in this process (`local`) or on Ray (`ray`)."""

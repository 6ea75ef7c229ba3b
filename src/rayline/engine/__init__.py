"""Where work runs: in this process (`local`) or on Ray (`ray`)."""

"""Measurements of Rayline side by side with what it is compared with. `python -m bench --help` says how to run them."""

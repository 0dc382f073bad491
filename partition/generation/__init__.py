"""Tokens one after another: the loop, how the next one is chosen, and where it stops."""

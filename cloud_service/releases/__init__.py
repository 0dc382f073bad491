"""Signed releases: the repository, its keys, and publishing."""

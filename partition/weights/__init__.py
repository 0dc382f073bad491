"""Weights as they lie in files: formats, names, shapes, and what a model is made of."""

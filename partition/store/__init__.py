"""The model store: a model by name, from wherever its bytes can be had, by its hash."""

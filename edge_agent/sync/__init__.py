"""How a model reaches the device, proves itself, and goes back: see docs/sync.md."""

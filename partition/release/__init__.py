"""What a release is made of: manifest, deltas, golden outputs, and what a device is to run."""

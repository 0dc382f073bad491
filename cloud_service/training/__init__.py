"""Training: what makes the edge model and the anonymizer better."""

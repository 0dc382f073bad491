"""Whether a promise still holds in operation: audits, alarm, drift, adaptive threshold, budget."""

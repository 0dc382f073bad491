"""Package tandem.inference."""

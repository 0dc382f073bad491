"""Package tandem.feedback."""

"""Package tandem.sync."""

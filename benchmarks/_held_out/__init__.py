"""Notes whose names, templates and number formats no training data holds; the anonymizer's figures on them are the honest ones."""

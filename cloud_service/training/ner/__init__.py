"""The recipe of the anonymizer's own NER heads: synthetic clinical notes in, small spaCy pipelines out."""

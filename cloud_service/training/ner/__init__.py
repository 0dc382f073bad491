"""The recipe of the anonymizer's own tagger: invented notes and corpora that may be passed on in, one archive of arrays out."""

"""Work divided over one primitive, extend: frames, VERIFY, SPLIT and what crosses the wire."""

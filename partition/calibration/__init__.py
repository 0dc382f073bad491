"""Which answers may stand: records, scorer, certificate, and the report that explains them."""

"""Recognizers: each finds one kind of identifier by its form, with a checksum where there is one."""

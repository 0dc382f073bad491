"""Package tandem.enrolment."""

"""Anonymization: ``Prepared`` -> ``Anonymized`` and ``Vault``, on the device, fail closed."""

from edge_agent.anonymize.anonymized import Anonymized
from edge_agent.anonymize.anonymizer import Anonymizer

__all__ = ["Anonymized", "Anonymizer"]

"""DICOM: reports read, whole files made anonymous."""

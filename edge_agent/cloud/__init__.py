"""The only way out of the device."""

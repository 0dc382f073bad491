"""What both ends compute."""

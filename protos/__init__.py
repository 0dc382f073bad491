"""What both ends say: messages, codec and wire errors."""

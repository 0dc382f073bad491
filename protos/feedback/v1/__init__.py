"""Version 1 of tandem.feedback: the .proto file and what protoc makes of it."""

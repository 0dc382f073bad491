"""Version 1 of tandem.inference: the .proto file and what protoc makes of it."""

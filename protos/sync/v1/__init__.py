"""Version 1 of tandem.sync: the .proto file and what protoc makes of it."""

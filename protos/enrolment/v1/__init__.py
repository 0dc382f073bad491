"""Version 1 of tandem.enrolment: the .proto file and what protoc makes of it."""

"""What `make run` shows: invented reports full of identifiers, and the program that sends them through the system."""

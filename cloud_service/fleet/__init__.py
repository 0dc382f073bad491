"""The devices and what each is to run."""

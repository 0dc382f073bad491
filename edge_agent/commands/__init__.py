"""The subcommands of ``edge-agent``."""

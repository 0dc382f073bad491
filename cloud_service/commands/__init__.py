"""The subcommands of ``cloud-service``."""

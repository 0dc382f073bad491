"""Engines that run a small model on a CPU: ours and its peers, each behind the same few calls, each in a process of its own."""

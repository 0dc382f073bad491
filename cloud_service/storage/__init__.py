"""State that outlives the process: sealed, deduplicated, shared by replicas."""

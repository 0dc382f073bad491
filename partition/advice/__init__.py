"""Local, cloud or both: the deployment question as a whole."""

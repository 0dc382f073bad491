"""Many replicas of the service on a Ray cluster, behind one address; needs the extra ``ray``."""

"""What waits for the cloud, kept safely until it is delivered."""

"""Work divided with the cloud: VERIFY and SPLIT as the device runs them."""

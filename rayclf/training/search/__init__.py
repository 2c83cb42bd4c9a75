"""The search for better settings: what is tried, the trials, and the best of them."""

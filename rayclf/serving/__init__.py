"""The endpoint: a Ray Serve application around the one inference path, and its native protocol."""

"""The demonstration and its data, which were written for this project and are free for everybody (CC0)."""

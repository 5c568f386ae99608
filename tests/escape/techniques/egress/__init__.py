"""Reach hosts that are not granted by name, or a credential, through the egress proxy or past it."""

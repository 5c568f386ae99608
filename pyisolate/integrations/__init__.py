"""Sandboxes as other frameworks know them: each module imports its framework when it is used, and nothing before."""

"""The root view: a mount tree that shows a cell the granted paths and nothing else.

paths   rules resolved to what stands on disk    build   the mounts, made by a process that may mount
worker  that process                             view    the supervisor's side
stager  one view after another, each with a workspace of its own
"""

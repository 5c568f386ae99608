"""The command line: one file per command, loaded when it is used.

main.py     the group and its table of commands     exit_status.py  what `$?` says
terminal.py what all commands print with            sources.py      where events and figures are read from
"""

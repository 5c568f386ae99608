"""`pyisolate top`: sandboxes and refusals, live.

command   the command      view   one screen
"""

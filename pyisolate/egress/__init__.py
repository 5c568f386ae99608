"""Egress by name: the proxy through which guests reach hosts whose addresses no policy can know beforehand.

`process`   the supervisor's side: starts the proxy, names sandboxes to it, takes its refusals
`messages`  what the two send each other
`serve`     the proxy's process: gives up what it does not need, then serves
`proxy`     one connection of a guest: which sandbox, which request, granted or not
`forward`   one plain request and its answer, read and written anew by h11
`tunnel`    a CONNECT: the TLS handshake must name the host
`names`     names to addresses, checked before one is used
"""

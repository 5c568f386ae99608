"""Egress by name: the proxy through which guests reach hosts whose addresses no policy can know beforehand.

`process`   the supervisor's side: starts the proxy, names sandboxes to it, takes its refusals
`messages`  what the two send each other
`use`       what was carried, by policy
`serve`     the proxy's process: gives up what it does not need, then serves
`door`      takes connections, each of a sandbox or closed at once; `peers` asks the kernel whose one is
`tenants`   the sandboxes that it knows, and their refusals
`connection` one connection of a guest: which sandbox, which request, granted or not
`request`   what is asked for, read in one way or refused
`forward`   one request and its answer, read and written anew by h11
`heads`     what of them came before, and is known
`tunnel`    a CONNECT: the TLS handshake must name the host; a thread in C carries the rest
`over_tls`  TLS with the guest of a tunnel that is read, and with its host
`authority` the certificates for that; `bundles` puts them where guests look
`names`     names to addresses, checked before one is used; `lookups` asks for them in threads, fairly
`calls`     the system calls that the proxy may make
"""

"""Have C libraries open the secret: readline, ssl, locale, dbm."""

import ssl

from tests.escape.grants import read_secret
from tests.escape.technique import Granted, Technique, silent


def attack(world):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for load in (context.load_verify_locations, context.load_cert_chain):
        try:
            load(world.secret)
        except FileNotFoundError:
            pass
        except ssl.SSLError as error:
            world.got(f"OpenSSL read it: {error}")


TECHNIQUE = Technique(
    source="CPython: ssl opens files without audit events",
    event=("fs.read",),
    stops=("root view", "landlock"),
    control=Granted(read_secret),
    thread=silent("the listener watches no files of a sandbox thread, and Landlock tells only that it refused"),
)

/* `wants` is id(ssl.SSLWantReadError), kept for good. */
int over_tls_prepare(uintptr_t wants);

int namespaces_probe(int flags, int uid, int gid);

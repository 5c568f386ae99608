int pyi_probe_namespaces(int flags, int uid, int gid);

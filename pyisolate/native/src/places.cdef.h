int places_identify(const char *paths, const char *kinds, unsigned int count, unsigned long long *identities);

int places_identify(const char *paths, const char *kinds, unsigned int count, unsigned long long *identities);
/* Returns 1 where `places_identify` would write these identities. */
int places_unchanged(const char *paths, const char *kinds, unsigned int count, const char *identities);
unsigned long long places_born(int folder, const char *path);

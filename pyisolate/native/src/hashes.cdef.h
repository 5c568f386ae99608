int64_t hashes_looks(const int64_t *hashes, size_t count, int set, uint8_t *taken, size_t slots, int64_t most);

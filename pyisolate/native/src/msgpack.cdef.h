int64_t msgpack_measure(const uint8_t *data, size_t length, int max_depth, int64_t limit);

int channel_wait(struct channel *channel, int timeout_ms);
int channel_receive(int peer, unsigned char *data, size_t size, int *descriptors, int most, int *count);
int channel_lowest_free(void);

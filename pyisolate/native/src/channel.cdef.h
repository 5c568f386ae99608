int channel_wait(struct channel *channel, int timeout_ms);
int channel_answer(struct channel *channel, int timeout_ms, uint64_t id);
int channel_ask(struct channel *channel, const unsigned char *data, size_t size, int timeout_ms, uint64_t id);
int channel_send(struct channel *channel, const unsigned char *data, size_t size, const int *descriptors, int count);
int channel_receive(int peer, unsigned char *data, size_t size, int *descriptors, int most, int *count);
int channel_lowest_free(void);
int channel_is_free(int number);
int channel_next_writer(int first);

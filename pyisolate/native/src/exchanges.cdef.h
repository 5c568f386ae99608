struct exchanges_one *exchanges_new(const struct exchanges_known *requests, size_t request_count,
				    const struct exchanges_known *answers, size_t answer_count, unsigned int kept_ms,
				    const struct exchanges_hidden *hidden, size_t hidden_count);

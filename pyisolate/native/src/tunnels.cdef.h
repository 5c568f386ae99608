struct tunnels *tunnels_start(unsigned int idle_s, int others);
int tunnels_turn(struct tunnels *all, int wait_ms);
int tunnels_ended_fd(const struct tunnels *all);
void *tunnels_add(struct tunnels *all, uint64_t number, int guest, int host, struct tunnels_meter *meter,
		  struct exchanges_one *exchange, const struct tunnels_tls *tls);
void tunnels_remove(struct tunnels *all, void *tunnel);
int tunnels_next_ended(struct tunnels *all, struct tunnels_end *end, unsigned char *given);
void tunnels_stop(struct tunnels *all);
uint64_t tunnels_expire(struct tunnels *all, void *tunnel, uint64_t ask_ms, uint64_t answer_ms);

struct tunnels *tunnels_start(unsigned int idle_s);
int tunnels_ended_fd(const struct tunnels *all);
void *tunnels_add(struct tunnels *all, uint64_t number, int guest, int host, struct tunnels_meter *meter);
void tunnels_remove(struct tunnels *all, void *tunnel);
int tunnels_next_ended(struct tunnels *all, uint64_t *number, int *result);
void tunnels_stop(struct tunnels *all);
int tunnels_count(struct tunnels_meter *meter, int way, uint64_t bytes);

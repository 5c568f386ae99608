int sides_count(struct tunnels_meter *meter, int way, uint64_t counted);
void sides_renew(struct tunnels_meter *meter);

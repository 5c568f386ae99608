struct account *account_open(void);
void account_drop(struct account *a);
void account_spend(struct account *a, uint64_t spent_ns, uint64_t now_ns);
void account_served(const struct account *a, uint64_t now_ns);
uint64_t account_wait(const struct account *a, uint64_t now_ns);
void account_held(struct account *a, uint64_t held_ns);
uint64_t account_held_ns(const struct account *a);

/* libbpf >= 1.0 (bpf/libbpf.h, bpf/bpf.h): what the loader calls. Functions return a value >= 0 or -errno. */
struct bpf_object;
struct bpf_program;
struct bpf_map;
struct bpf_link;
struct ring_buffer;

struct bpf_object *pyi_object_open(const char *path);
int bpf_object__load(struct bpf_object *object);
void bpf_object__close(struct bpf_object *object);
struct bpf_program *bpf_object__next_program(const struct bpf_object *object, struct bpf_program *previous);
struct bpf_map *bpf_object__next_map(const struct bpf_object *object, const struct bpf_map *previous);

const char *bpf_program__name(const struct bpf_program *program);
const char *bpf_program__section_name(const struct bpf_program *program);
int bpf_program__set_autoload(struct bpf_program *program, bool autoload);
bool bpf_program__autoload(const struct bpf_program *program);
int bpf_program__fd(const struct bpf_program *program);
struct bpf_link *pyi_attach(const struct bpf_program *program);
struct bpf_link *pyi_attach_cgroup(const struct bpf_program *program, int cgroup_fd);
int bpf_link__destroy(struct bpf_link *link);
int bpf_link__fd(const struct bpf_link *link);

const char *bpf_map__name(const struct bpf_map *map);
int bpf_map__fd(const struct bpf_map *map);
int bpf_map__reuse_fd(struct bpf_map *map, int fd);
int bpf_map__set_max_entries(struct bpf_map *map, unsigned int entries);

int pyi_trie_create(const char *name, unsigned int key_size, unsigned int value_size, unsigned int entries);
int bpf_map_update_elem(int fd, const void *key, const void *value, unsigned long long flags);
int bpf_map_lookup_elem(int fd, const void *key, void *value);
int bpf_map_delete_elem(int fd, const void *key);
int pyi_map_fill(int fd, const void *keys, unsigned int key_size, const void *values, unsigned int value_size,
		 unsigned int count);

int pyi_counters_read(int fd, unsigned int sandbox, unsigned int epoch, unsigned int policy, const unsigned char *parts,
		      unsigned int count, unsigned int cpus, int take, unsigned long long *sums);

int pyi_run(int program_fd, void *context, unsigned int bytes);
long long pyi_denials(int program_fd, const struct pyi_landlock *question, unsigned int pid);
int libbpf_num_possible_cpus(void);
int pyi_hook_arguments(const char *function);
int pyi_btf_has_function(const char *function);
int pyi_try_lsm(void);
int pyi_grace_period(void);
int pyi_pidfd_open(int pid, unsigned int flags);

struct ring_buffer *pyi_ring_open(int map_fd, void *handle);
int ring_buffer__consume(struct ring_buffer *ring);
int ring_buffer__epoll_fd(const struct ring_buffer *ring);
void ring_buffer__free(struct ring_buffer *ring);
extern "Python" int pyi_on_record(void *handle, void *data, size_t bytes);

/* What libbpf and the verifier said since the last call; the thread's own. Returns its length. */
size_t pyi_log_take(char *buffer, size_t size);
void pyi_log_start(void);

void pyi_store64(void *address, unsigned long long value);
void pyi_store32(void *address, unsigned int value);

/* Offset of `member` of `struct name` in an object's BTF; -1 where there is none. -2: size of the struct wanted */
int pyi_btf_member(const char *object_path, const char *name, const char *member);

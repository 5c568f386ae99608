/* libseccomp, as far as it is used to compile a filter to BPF (seccomp.h, 2.5). */
typedef void *scmp_filter_ctx;
enum scmp_compare { SCMP_CMP_EQ = 4, SCMP_CMP_MASKED_EQ = 7, ... };
struct scmp_arg_cmp {
	unsigned int arg;
	enum scmp_compare op;
	uint64_t datum_a;
	uint64_t datum_b;
};
enum scmp_filter_attr { SCMP_FLTATR_ACT_BADARCH = 2, SCMP_FLTATR_CTL_OPTIMIZE = 8, ... };
int seccomp_api_set(unsigned int level);
scmp_filter_ctx seccomp_init(uint32_t def_action);
void seccomp_release(scmp_filter_ctx ctx);
int seccomp_attr_set(scmp_filter_ctx ctx, enum scmp_filter_attr attr, uint32_t value);
int seccomp_syscall_resolve_name(const char *name);
int seccomp_rule_add_array(scmp_filter_ctx ctx, uint32_t action, int syscall, unsigned int arg_cnt,
			   const struct scmp_arg_cmp *arg_array);
int seccomp_export_bpf(const scmp_filter_ctx ctx, int fd);

/* seccomp(2), linux/seccomp.h */
#define SECCOMP_RET_ALLOW                      ...
#define SECCOMP_RET_ERRNO                      ...
#define SECCOMP_RET_USER_NOTIF                 ...
#define SECCOMP_FILTER_FLAG_LOG                ...
#define SECCOMP_FILTER_FLAG_NEW_LISTENER       ...
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV ...
#define SECCOMP_AUDIT_ARCH                     ...
int seccomp_install(const void *program, size_t length_bytes, unsigned long flags);
int seccomp_no_new_privs(void);
int seccomp_install_and_send(const void *program, size_t length_bytes, unsigned long flags, int peer, const void *data,
			     size_t data_bytes, const struct seccomp_user *user);

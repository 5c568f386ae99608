#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <linux/membarrier.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "pyisolate.h"

/* The verifier's log can be megabytes: only its end says why. Per thread, so that two loads do not mix. */
#define LOG_BYTES 65536
static __thread char log_text[LOG_BYTES];
static __thread size_t log_length;

static int log_print(enum libbpf_print_level level, const char *format, va_list arguments)
{
	if (level == LIBBPF_DEBUG)
		return 0;
	va_list copy;
	va_copy(copy, arguments);
	int wanted = vsnprintf(NULL, 0, format, copy);
	va_end(copy);
	if (wanted < 0)
		return 0;
	if ((size_t)wanted + 1 > LOG_BYTES / 2) { /* one very long text: keep its end */
		char *whole = malloc((size_t)wanted + 1);
		if (!whole)
			return 0;
		vsnprintf(whole, (size_t)wanted + 1, format, arguments);
		size_t keep = LOG_BYTES / 2 - 1;
		log_length = keep;
		memcpy(log_text, whole + wanted - keep, keep + 1);
		free(whole);
		return 0;
	}
	if (log_length + (size_t)wanted + 1 > LOG_BYTES) {
		size_t drop = log_length + (size_t)wanted + 1 - LOG_BYTES;
		memmove(log_text, log_text + drop, log_length - drop);
		log_length -= drop;
	}
	vsnprintf(log_text + log_length, LOG_BYTES - log_length, format, arguments);
	log_length += (size_t)wanted;
	return 0;
}

static void pyi_log_start(void)
{
	log_length = 0;
	libbpf_set_print(log_print);
}

static size_t pyi_log_take(char *buffer, size_t size)
{
	size_t bytes = log_length < size ? log_length : size;
	memcpy(buffer, log_text + log_length - bytes, bytes);
	log_length = 0;
	return bytes;
}

static struct bpf_object *pyi_object_open(const char *path)
{
	return bpf_object__open_file(path, NULL);
}

static struct bpf_link *pyi_attach(const struct bpf_program *program)
{
	return bpf_program__attach(program);
}

static struct bpf_link *pyi_attach_cgroup(const struct bpf_program *program, int cgroup_fd)
{
	return bpf_program__attach_cgroup(program, cgroup_fd);
}

static int pyi_trie_create(const char *name, unsigned int key_size, unsigned int value_size, unsigned int entries)
{
	LIBBPF_OPTS(bpf_map_create_opts, options, .map_flags = BPF_F_NO_PREALLOC | BPF_F_RDONLY_PROG);
	return bpf_map_create(BPF_MAP_TYPE_LPM_TRIE, name, key_size, value_size, entries, &options);
}

static int pyi_map_fill(int fd, const void *keys, unsigned int key_size, const void *values, unsigned int value_size,
			unsigned int count)
{
	for (unsigned int i = 0; i < count; i++) {
		int result = bpf_map_update_elem(fd, (const char *)keys + (size_t)i * key_size,
						 (const char *)values + (size_t)i * value_size, BPF_ANY);
		if (result)
			return result;
	}
	return 0;
}

/* Sum the per-CPU counters of one sandbox under one policy: one look-up for each of `count` parts (capability, verdict,
 * code, kind), so that the work does not grow with what other sandboxes were refused. `take` removes what is read. */
static int pyi_counters_read(int fd, unsigned int sandbox, unsigned int epoch, unsigned int policy,
			     const unsigned char *parts, unsigned int count, unsigned int cpus, int take,
			     unsigned long long *sums)
{
	unsigned long long *values = calloc(cpus, sizeof *values);
	if (!values)
		return -ENOMEM;
	int result = 0;
	for (unsigned int i = 0; i < count; i++) {
		const unsigned char *part = parts + (size_t)i * 4;
		struct pyi_counter_key key = {sandbox, epoch, policy, part[0], part[1], part[2], part[3]};
		sums[i] = 0;
		result = bpf_map_lookup_elem(fd, &key, values);
		if (result == -ENOENT) {
			result = 0;
			continue;
		}
		if (result)
			break;
		for (unsigned int cpu = 0; cpu < cpus; cpu++)
			sums[i] += values[cpu];
		if (take && (result = bpf_map_delete_elem(fd, &key)) && result != -ENOENT)
			break;
		result = 0;
	}
	free(values);
	return result;
}

static int pyi_run(int program_fd, void *context, unsigned int bytes)
{
	LIBBPF_OPTS(bpf_test_run_opts, options, .ctx_in = context, .ctx_size_in = bytes); /* written back in place */
	int result = bpf_prog_test_run_opts(program_fd, &options);
	return result ? result : (int)options.retval;
}

/* How often the Landlock domain of a task has refused, -1 where the task is gone or in none. From any thread: the answer
 * is written into a copy of the question. */
static long long pyi_denials(int program_fd, const struct pyi_landlock *question, unsigned int pid)
{
	struct pyi_landlock asked = *question;

	asked.pid = pid;
	if (pyi_run(program_fd, &asked, sizeof asked) || asked.result || !asked.domain)
		return -1;
	return (long long)asked.denials;
}

/* The running kernel's types, read once: 5 MB to parse. */
static const struct btf *vmlinux(void)
{
	static struct btf *loaded;
	if (!loaded)
		loaded = btf__load_vmlinux_btf();
	return loaded;
}

static const struct btf_type *function_of(const char *function)
{
	const struct btf *btf = vmlinux();
	if (!btf)
		return NULL;
	int id = btf__find_by_name_kind(btf, function, BTF_KIND_FUNC);
	return id < 0 ? NULL : btf__type_by_id(btf, (__u32)id);
}

static int pyi_hook_arguments(const char *function)
{
	const struct btf_type *type = function_of(function);
	if (!type)
		return vmlinux() ? -ENOENT : -errno;
	return btf_vlen(btf__type_by_id(vmlinux(), type->type));
}

static int pyi_btf_has_function(const char *function)
{
	return function_of(function) != NULL;
}

/* Whether the kernel takes an LSM program at all: the smallest there is, which would allow, attached to nothing. A kernel
 * whose types lack the hook is left to those that load all of them. First kernel: 5.7 */
static int pyi_try_lsm(void)
{
	const struct bpf_insn allow[] = {
		{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0},
		{.code = BPF_JMP | BPF_EXIT},
	};
	const struct btf *btf = vmlinux();
	int id = btf ? btf__find_by_name_kind(btf, "bpf_lsm_file_open", BTF_KIND_FUNC) : -1;
	if (id < 0)
		return 0;
	LIBBPF_OPTS(bpf_prog_load_opts, options, .expected_attach_type = BPF_LSM_MAC, .attach_btf_id = (__u32)id);
	int fd = bpf_prog_load(BPF_PROG_TYPE_LSM, "pyi_try", "GPL", allow, 2, &options);
	if (fd < 0)
		return fd;
	close(fd);
	return 0;
}

/* membarrier(2) GLOBAL waits for an RCU grace period: no program that began before still runs after. */
static int pyi_grace_period(void)
{
	return syscall(__NR_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) ? -errno : 0;
}

static int pyi_pidfd_open(int pid, unsigned int flags)
{
	long fd = syscall(__NR_pidfd_open, pid, flags);
	return fd < 0 ? -errno : (int)fd;
}

/* cffi defines it in its own file part, from `extern "Python"` in the cdef. */
#ifdef PYISOLATE_ONE_UNIT
static
#else
extern
#endif
	int pyi_on_record(void *handle, void *data, size_t bytes);

static struct ring_buffer *pyi_ring_open(int map_fd, void *handle)
{
	return ring_buffer__new(map_fd, pyi_on_record, handle, NULL);
}

static void pyi_store64(void *address, unsigned long long value)
{
	__atomic_store_n((unsigned long long *)address, value, __ATOMIC_SEQ_CST);
}

static void pyi_store32(void *address, unsigned int value)
{
	__atomic_store_n((unsigned int *)address, value, __ATOMIC_SEQ_CST);
}

static int pyi_btf_member(const char *object_path, const char *name, const char *member)
{
	struct btf *btf = btf__parse_elf(object_path, NULL);
	int result = -1;
	if (!btf)
		return -1;
	int id = btf__find_by_name_kind(btf, name, BTF_KIND_STRUCT);
	if (id > 0) {
		const struct btf_type *type = btf__type_by_id(btf, (__u32)id);
		const struct btf_member *members = btf_members(type);
		if (!member[0])
			result = (int)type->size;
		for (__u32 i = 0; member[0] && i < btf_vlen(type); i++)
			if (!strcmp(btf__name_by_offset(btf, members[i].name_off), member))
				result = (int)(btf_member_bit_offset(type, i) / 8);
	}
	btf__free(btf);
	return result;
}

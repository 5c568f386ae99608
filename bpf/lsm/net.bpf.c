// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * Sockets, by address and port.
 *
 * Hooks: socket_create socket_post_create socket_bind socket_connect socket_listen socket_accept socket_sendmsg
 * socket_setsockopt unix_stream_connect unix_may_send netlink_send.
 * connect(2) is not the only way out: MSG_FASTOPEN and datagrams name their receiver in sendmsg(2). IPv4 addresses are
 * judged in their v4-mapped IPv6 form, so both spellings of an address meet the same rule.
 * A unix socket's peer is free inside the sandbox, else its path must be granted: the path by which its owner bound it.
 */
#include "../hook.bpf.h"

/* include/uapi/asm-generic/socket.h: options that attach programs */
#define SOL_SOCKET               1
#define SO_ATTACH_FILTER         26
#define SO_ATTACH_BPF            50
#define SO_ATTACH_REUSEPORT_CBPF 51
#define SO_ATTACH_REUSEPORT_EBPF 52

SEC("lsm/socket_create")
int BPF_PROG(socket_create, int family, int type, int protocol, int kernel)
{
	if (kernel)
		return 0;
	struct pyi_task *own = pyi_current();
	if (!own)
		return 0;
	u64 detail = (u64)family << 32 | (u32)type << 16 | (u16)protocol;
	bool inet = family == AF_INET || family == AF_INET6;
	bool known = (type == SOCK_STREAM && (!protocol || protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP)) ||
		     (type == SOCK_DGRAM && (!protocol || protocol == IPPROTO_UDP));
	if (family != AF_UNIX && !(inet && known))
		return pyi_floor(PYI_H_SOCKET_CREATE, PYI_NET_SOCKET, detail);
	struct pyi_scratch *scratch = pyi_begin(own, PYI_H_SOCKET_CREATE);
	if (!scratch)
		return -EPERM;
	scratch->record.capability = PYI_NET_SOCKET;
	scratch->record.detail = detail;
	const struct pyi_policy *policy = pyi_policy_at(scratch->record.policy);
	u32 code = !policy ? PYI_ALWAYS_DENIED
		   : !inet ? 0 /* socket pairs; connect, bind and send are judged */
		   : policy->flags & (PYI_P_CONNECT | PYI_P_BIND) ? 0
								  : PYI_NOT_GRANTED;
	if (!code)
		return 0;
	int refused = pyi_refuse(scratch, own, scratch->record.policy, code);
	return pyi_answer(refused, code);
}

SEC("lsm/socket_post_create")
int BPF_PROG(socket_post_create, struct socket *socket, int family, int type, int protocol, int kernel)
{
	struct pyi_task *own = kernel ? NULL : pyi_current();
	struct sock *sk = own ? socket->sk : NULL;
	if (!sk)
		return 0;
	struct pyi_task *mark = bpf_sk_storage_get(&sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!mark)
		return -EPERM;
	mark->sandbox = own->sandbox;
	mark->epoch = own->epoch;
	return 0;
}

static __always_inline void pyi_mapped(u8 *address, u32 v4)
{
	__builtin_memset(address, 0, 10);
	address[10] = address[11] = 0xff;
	__builtin_memcpy(address + 12, &v4, 4);
}

/* Decide an address in the record by both policies. */
static __noinline int pyi_check_net(struct pyi_scratch *scratch, struct pyi_task *own, u32 action, u32 capability)
{
	struct pyi_record *record = &scratch->record;
	struct pyi_net_key key = {.prefixlen = 128};
	__builtin_memcpy(key.address, record->address, 16);
	record->capability = capability;
	u32 refused = 0, code = pyi_decide_net(record->policy, &key, action, record->port);
	/* a listener on a port that the kernel picked was allowed when it was bound to port 0 */
	if (code && capability == PYI_NET_LISTEN && !pyi_decide_net(record->policy, &key, action, 0))
		code = 0;
	if (code)
		refused = pyi_refuse(scratch, own, record->policy, code);
	if (record->shadow) {
		u32 other = pyi_decide_net(record->shadow, &key, action, record->port);
		if (other) {
			record->flags |= PYI_F_SHADOW;
			pyi_refuse(scratch, own, record->shadow, other);
			record->flags &= ~PYI_F_SHADOW;
		}
	}
	return pyi_answer(refused, code);
}

/* Read a socket address that the kernel has copied in. Returns its family, or -1. */
static __noinline int pyi_read_address(struct pyi_scratch *scratch, u64 address, u32 bytes, u32 socket_family)
{
	struct pyi_record *record = &scratch->record;
	struct pyi_sockaddr_in6 in6 = {};
	if (bytes < 2 || bpf_probe_read_kernel(&in6.family, 2, (void *)address))
		return -1;
	u32 family = in6.family;
	if (family == AF_UNSPEC && socket_family == AF_INET && bytes >= sizeof(struct pyi_sockaddr_in))
		family = AF_INET; /* bind and sendto accept it for IPv4 (net/ipv4/af_inet.c) */
	record->family = family;
	if (family == AF_INET) {
		struct pyi_sockaddr_in in = {};
		if (bytes < sizeof(in) || bpf_probe_read_kernel(&in, sizeof(in), (void *)address))
			return -1;
		record->port = __builtin_bswap16(in.port);
		pyi_mapped(record->address, in.address);
	} else if (family == AF_INET6) {
		if (bytes < 24 || bpf_probe_read_kernel(&in6, 24, (void *)address))
			return -1;
		record->port = __builtin_bswap16(in6.port);
		__builtin_memcpy(record->address, in6.address, 16);
	}
	return family;
}

/* As a destination "any" is this host: by the address that an IPv4 socket is bound to, or by loopback (ip_route_output_key,
 * tcp_v6_connect, Linux). The record names where it leads, as the hooks of a cgroup do. */
static __noinline int pyi_lead(struct pyi_scratch *scratch, struct socket *socket)
{
	u8 *address = scratch->record.address;
	u32 words[4], bound[4] = {};
	__builtin_memcpy(words, address, 16);
	bool mapped = words[2] == __builtin_bswap32(0xffff);
	if (words[0] || words[1] || (words[2] && !mapped) || words[3])
		return 0;
	struct sock *sk = BPF_CORE_READ(socket, sk);
	if (!mapped) {
		BPF_CORE_READ_INTO(&bound, sk, __sk_common.skc_v6_rcv_saddr.in6_u.u6_addr8);
		if (bound[0] || bound[1] || bound[2] != __builtin_bswap32(0xffff))
			address[15] = 1;
		else
			pyi_mapped(address, __builtin_bswap32(0x7f000001));
		return 0;
	}
	u32 own = BPF_CORE_READ(sk, __sk_common.skc_rcv_saddr);
	pyi_mapped(address, own ? own : __builtin_bswap32(0x7f000001));
	return 0;
}

static __noinline int pyi_to_address(u32 hook, struct socket *socket, u64 address, u32 bytes, u32 action)
{
	struct pyi_task *own = pyi_current();
	if (!own)
		return 0;
	struct pyi_scratch *scratch = pyi_begin(own, hook);
	if (!scratch)
		return -EPERM;
	u32 socket_family = BPF_CORE_READ(socket, sk, __sk_common.skc_family);
	u32 capability = action == PYI_ACTION_BIND      ? PYI_NET_BIND
			 : hook == PYI_H_SOCKET_SENDMSG ? PYI_NET_SEND
							: PYI_NET_CONNECT;
	if (socket_family == AF_UNIX) /* the peer is judged by unix_stream_connect, unix_may_send, path_mknod */
		return scratch->record.flags & PYI_F_CLOSED ? -EPERM : 0;
	int family = pyi_read_address(scratch, address, bytes, socket_family);
	if (family == AF_UNSPEC && action == PYI_ACTION_CONNECT)
		return 0; /* disconnects */
	if (family != AF_INET && family != AF_INET6) {
		scratch->record.capability = capability;
		pyi_refuse(scratch, own, 0, PYI_ALWAYS_DENIED);
		return -EPERM;
	}
	if (action == PYI_ACTION_CONNECT)
		pyi_lead(scratch, socket);
	return pyi_check_net(scratch, own, action, capability);
}

SEC("lsm/socket_connect")
int BPF_PROG(socket_connect, struct socket *socket, struct sockaddr *address, int bytes)
{
	return pyi_to_address(PYI_H_SOCKET_CONNECT, socket, (u64)address, bytes, PYI_ACTION_CONNECT);
}

SEC("lsm/socket_bind")
int BPF_PROG(socket_bind, struct socket *socket, struct sockaddr *address, int bytes)
{
	return pyi_to_address(PYI_H_SOCKET_BIND, socket, (u64)address, bytes, PYI_ACTION_BIND);
}

/* Without a name the message goes where connect(2) was allowed to lead, or came from an accepted connection. */
SEC("lsm/socket_sendmsg")
int BPF_PROG(socket_sendmsg, struct socket *socket, struct msghdr *message)
{
	u64 name = (u64)message->msg_name;
	if (!name || message->msg_namelen <= 0)
		return 0;
	return pyi_to_address(PYI_H_SOCKET_SENDMSG, socket, name, message->msg_namelen, PYI_ACTION_CONNECT);
}

/* listen(2) without bind(2) takes any address and any free port: the rule for port 0 must grant that. */
static __noinline int pyi_listener(u32 hook, struct socket *socket)
{
	struct pyi_task *own = pyi_current();
	if (!own)
		return 0;
	struct pyi_scratch *scratch = pyi_begin(own, hook);
	if (!scratch)
		return -EPERM;
	struct pyi_record *record = &scratch->record;
	struct sock *sk = BPF_CORE_READ(socket, sk);
	u32 family = BPF_CORE_READ(sk, __sk_common.skc_family);
	if (family == AF_UNIX)
		return record->flags & PYI_F_CLOSED ? -EPERM : 0;
	record->family = family;
	record->port = BPF_CORE_READ(sk, __sk_common.skc_num);
	if (family == AF_INET)
		pyi_mapped(record->address, BPF_CORE_READ(sk, __sk_common.skc_rcv_saddr));
	else
		BPF_CORE_READ_INTO(&record->address, sk, __sk_common.skc_v6_rcv_saddr.in6_u.u6_addr8);
	return pyi_check_net(scratch, own, PYI_ACTION_BIND, PYI_NET_LISTEN);
}

SEC("lsm/socket_listen")
int BPF_PROG(socket_listen, struct socket *socket)
{
	return pyi_listener(PYI_H_SOCKET_LISTEN, socket);
}

SEC("lsm/socket_accept")
int BPF_PROG(socket_accept, struct socket *socket)
{
	return pyi_listener(PYI_H_SOCKET_ACCEPT, socket);
}

SEC("lsm/socket_setsockopt")
int BPF_PROG(socket_setsockopt, struct socket *socket, int level, int option)
{
	if (level != SOL_SOCKET || (option != SO_ATTACH_FILTER && option != SO_ATTACH_BPF &&
				    option != SO_ATTACH_REUSEPORT_CBPF && option != SO_ATTACH_REUSEPORT_EBPF))
		return 0;
	return pyi_floor(PYI_H_SOCKET_SETSOCKOPT, PYI_KERNEL_BPF, option);
}

SEC("lsm/netlink_send")
int BPF_PROG(netlink_send)
{
	return pyi_floor(PYI_H_NETLINK_SEND, PYI_NET_SOCKET, 0);
}

static __noinline int pyi_unix_peer(u32 hook, struct sock *other)
{
	struct pyi_task *own = pyi_current();
	if (!own || !other)
		return 0;
	struct pyi_task *mark = bpf_sk_storage_get(&sockets, other, 0, 0);
	if (mark && mark->sandbox == own->sandbox && mark->epoch == own->epoch)
		return 0;
	struct pyi_scratch *scratch = pyi_begin(own, hook);
	if (!scratch)
		return -EPERM;
	struct unix_sock *peer = (void *)other;
	u64 dentry = (u64)BPF_CORE_READ(peer, path.dentry), mnt = (u64)BPF_CORE_READ(peer, path.mnt);
	scratch->record.family = AF_UNIX;
	if (!dentry) /* abstract or unnamed, and not the sandbox's own */
		return pyi_not_understood(scratch, own, PYI_UNIX_CONNECT, PYI_PSEUDO);
	int named = pyi_walk_path(scratch, dentry, mnt);
	if (named != PYI_NAMED)
		return pyi_not_understood(scratch, own, PYI_UNIX_CONNECT, named);
	return pyi_check_path(scratch, own, PYI_UNIX_CONNECT);
}

SEC("lsm/unix_stream_connect")
int BPF_PROG(unix_stream_connect, struct sock *sk, struct sock *other)
{
	return pyi_unix_peer(PYI_H_UNIX_CONNECT, other);
}

SEC("lsm/unix_may_send")
int BPF_PROG(unix_may_send, struct socket *socket, struct socket *other)
{
	return pyi_unix_peer(PYI_H_UNIX_SEND, other->sk);
}

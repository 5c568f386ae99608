/* Written by `python -m pyisolate.capability` from pyisolate/capability.py: do not edit. */
#ifndef PYI_GROUP_OF_BPF_H
#define PYI_GROUP_OF_BPF_H

/* The rule group whose mode a capability follows; the floor's is never monitored. */
static __always_inline u32 pyi_group_of(u32 capability)
{
	switch (capability) {
	case PYI_FS_READ:
	case PYI_FS_WRITE:
	case PYI_FS_CREATE:
	case PYI_FS_DELETE:
	case PYI_FS_METADATA:
	case PYI_FS_EXEC:
	case PYI_FS_ACCESS:
	case PYI_FS_LOOKUP:
		return PYI_GROUP_FS;
	case PYI_NET_CONNECT:
	case PYI_NET_BIND:
	case PYI_NET_LISTEN:
	case PYI_NET_SEND:
	case PYI_NET_SOCKET:
	case PYI_IPC_UNIX:
	case PYI_NET_HTTP:
		return PYI_GROUP_NET;
	case PYI_PROCESS_EXEC:
	case PYI_PROCESS_FORK:
	case PYI_PROCESS_SIGNAL:
	case PYI_IPC_SYSV:
	case PYI_IPC_POSIX:
	case PYI_PRIORITY_IO:
		return PYI_GROUP_PROCESS;
	case PYI_IMPORT_MODULE:
	case PYI_IMPORT_NATIVE:
	case PYI_MEMORY_EXEC:
		return PYI_GROUP_IMPORT;
	case PYI_RANDOM_READ:
		return PYI_GROUP_RANDOM;
	default:
		return PYI_GROUP_FLOOR;
	}
}

#endif

/* What one msgpack value takes once Python has decoded it, found out without decoding it: sixteen million empty maps are
 * sixteen megabytes on the wire and a gigabyte of dicts. Format: github.com/msgpack/msgpack, spec.md.
 *
 * No recursion, no allocation: `data` is a guest's. Sizes are CPython's on 64 bits (sys.getsizeof), rounded up.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <stdint.h>
#include <stddef.h>

#include "msgpack.h"
#include "shared.h"

#define MSGPACK_DEPTH       128
#define MSGPACK_CONTAINER   64  /* an empty list or dict, with what the collector keeps of it */
#define MSGPACK_SLOT        8   /* of a list */
#define MSGPACK_ENTRY       100 /* of a dict, before it is next grown */
#define MSGPACK_TEXT        56
#define MSGPACK_NUMBER      32
#define MSGPACK_NUMBER_KEYS 64 /* of one map: a guest can make their hashes collide (hashes.c) */

struct msgpack_reader {
	const uint8_t *at, *end;
};

/* Read a big-endian number of `width` bytes. */
static int msgpack_number(struct msgpack_reader *r, int width, uint64_t *number)
{
	if (r->end - r->at < width)
		return -EPROTO;
	*number = 0;
	for (int i = 0; i < width; i++)
		*number = *number << 8 | *r->at++;
	return 0;
}

/* Bytes that a text takes: CPython's strings have 1, 2 or 4 bytes for each character, by the widest one. */
static int64_t msgpack_text(const uint8_t *text, uint64_t length)
{
	uint8_t widest = 0;

	for (uint64_t i = 0; i < length; i++)
		widest = text[i] > widest ? text[i] : widest;
	return MSGPACK_TEXT + (int64_t)length * (widest < 0xc4 ? 1 : widest < 0xf0 ? 2 : 4);
}

/* What each first byte means (spec.md, "Formats"). `width` is the number of bytes that follow it: of the length that
 * some kinds have, or of the scalar itself. `kind` 0: never used, an extension, or reserved. */
enum msgpack_kind {
	MSGPACK_UNUSED,
	MSGPACK_EXTENSION,
	MSGPACK_SMALL,
	MSGPACK_SCALAR,
	MSGPACK_IS_TEXT,
	MSGPACK_BYTES,
	MSGPACK_LIST,
	MSGPACK_MAP
};
struct msgpack_head {
	uint8_t kind, width;
	uint8_t fixed; /* the bits of the byte itself that are the length; 0: it follows */
	uint8_t cost;
};

static const struct msgpack_head msgpack_heads[256] = {
	[0x00 ... 0x7f] = {MSGPACK_SMALL, 0, 0, 0}, /* CPython keeps -5 to 256 */
	[0x80 ... 0x8f] = {MSGPACK_MAP, 0, 0x0f, 0},
	[0x90 ... 0x9f] = {MSGPACK_LIST, 0, 0x0f, 0},
	[0xa0 ... 0xbf] = {MSGPACK_IS_TEXT, 0, 0x1f, 0},
	[0xc0] = {MSGPACK_SMALL, 0, 0, 0},
	[0xc1] = {MSGPACK_UNUSED, 0, 0, 0},
	[0xc2 ... 0xc3] = {MSGPACK_SMALL, 0, 0, 0},
	[0xc4] = {MSGPACK_BYTES, 1, 0, MSGPACK_TEXT},
	[0xc5] = {MSGPACK_BYTES, 2, 0, MSGPACK_TEXT},
	[0xc6] = {MSGPACK_BYTES, 4, 0, MSGPACK_TEXT},
	[0xc7 ... 0xc9] = {MSGPACK_EXTENSION, 0, 0, 0},
	[0xca] = {MSGPACK_SCALAR, 4, 0, MSGPACK_NUMBER},
	[0xcb] = {MSGPACK_SCALAR, 8, 0, MSGPACK_NUMBER},
	[0xcc] = {MSGPACK_SCALAR, 1, 0, 0},
	[0xcd] = {MSGPACK_SCALAR, 2, 0, MSGPACK_NUMBER},
	[0xce] = {MSGPACK_SCALAR, 4, 0, MSGPACK_NUMBER},
	[0xcf] = {MSGPACK_SCALAR, 8, 0, MSGPACK_NUMBER},
	[0xd0] = {MSGPACK_SCALAR, 1, 0, MSGPACK_NUMBER},
	[0xd1] = {MSGPACK_SCALAR, 2, 0, MSGPACK_NUMBER},
	[0xd2] = {MSGPACK_SCALAR, 4, 0, MSGPACK_NUMBER},
	[0xd3] = {MSGPACK_SCALAR, 8, 0, MSGPACK_NUMBER},
	[0xd4 ... 0xd8] = {MSGPACK_EXTENSION, 0, 0, 0},
	[0xd9] = {MSGPACK_IS_TEXT, 1, 0, 0},
	[0xda] = {MSGPACK_IS_TEXT, 2, 0, 0},
	[0xdb] = {MSGPACK_IS_TEXT, 4, 0, 0},
	[0xdc] = {MSGPACK_LIST, 2, 0, 0},
	[0xdd] = {MSGPACK_LIST, 4, 0, 0},
	[0xde] = {MSGPACK_MAP, 2, 0, 0},
	[0xdf] = {MSGPACK_MAP, 4, 0, 0},
	[0xe0 ... 0xfa] = {MSGPACK_SMALL, 0, 0, MSGPACK_NUMBER},
	[0xfb ... 0xff] = {MSGPACK_SMALL, 0, 0, 0},
};

static int msgpack_left(const struct msgpack_reader *r, uint64_t length)
{
	return (uint64_t)(r->end - r->at) >= length;
}

/* A list or a map: every item that follows has a byte at least. */
static int msgpack_container(const struct msgpack_reader *r, uint64_t entries, int is_map, int64_t *cost,
			     uint64_t *count)
{
	if (entries > (uint64_t)(r->end - r->at) / (is_map ? 2 : 1))
		return -EPROTO;
	*cost += MSGPACK_CONTAINER + (int64_t)entries * (is_map ? MSGPACK_ENTRY : MSGPACK_SLOT);
	*count = is_map ? 2 * entries : entries;
	return 0;
}

/* One item's head. `count` is how many items follow in it; a map has two for each entry. `is_map` is -1 for a scalar. */
static int msgpack_item(struct msgpack_reader *r, int64_t *cost, uint64_t *count, int *is_map)
{
	uint8_t byte = *r->at++;
	const struct msgpack_head *head = &msgpack_heads[byte];
	uint64_t length = head->fixed & byte;

	*count = 0;
	*is_map = head->kind == MSGPACK_MAP ? 1 : head->kind == MSGPACK_LIST ? 0 : -1;
	*cost += head->cost;
	switch (head->kind) {
	case MSGPACK_SMALL:
		return 0;
	case MSGPACK_SCALAR:
		length = head->width;
		break;
	case MSGPACK_UNUSED:
		return -EPROTO;
	case MSGPACK_EXTENSION:
		return -EBADMSG;
	default:
		if (!head->fixed && msgpack_number(r, head->width, &length))
			return -EPROTO;
	}
	if (*is_map >= 0)
		return msgpack_container(r, length, *is_map, cost, count);
	if (!msgpack_left(r, length))
		return -EPROTO;
	if (head->kind == MSGPACK_IS_TEXT)
		*cost += msgpack_text(r->at, length);
	else if (head->kind == MSGPACK_BYTES)
		*cost += (int64_t)length;
	r->at += length;
	return 0;
}

/* The bytes that exactly one value takes. -EPROTO: malformed or not exactly one; -EBADMSG: an extension, a key that is a
 * container, or too many keys that are numbers; -ELOOP: nested deeper than `max_depth`; -E2BIG: more than `limit`. */
SHARED int64_t msgpack_measure(const uint8_t *data, size_t length, int max_depth, int64_t limit)
{
	struct msgpack_reader r = {data, data + length};
	uint64_t left[MSGPACK_DEPTH], count;
	int map[MSGPACK_DEPTH], numbers[MSGPACK_DEPTH], depth = 0, is_map;
	int64_t cost = 0;

	do {
		if (r.at == r.end)
			return -EPROTO;
		int is_key = depth && map[depth - 1] && left[depth - 1] % 2 == 0;
		if (depth)
			left[depth - 1]--;
		if (is_key && msgpack_heads[*r.at].kind == MSGPACK_SCALAR && ++numbers[depth - 1] > MSGPACK_NUMBER_KEYS)
			return -EBADMSG;
		int error = msgpack_item(&r, &cost, &count, &is_map);
		if (error)
			return error;
		if (cost > limit)
			return -E2BIG;
		if (is_map >= 0) {
			if (is_key)
				return -EBADMSG;
			if (depth == max_depth || depth == MSGPACK_DEPTH)
				return -ELOOP;
			left[depth] = count;
			numbers[depth] = 0;
			map[depth++] = is_map;
		}
		while (depth && !left[depth - 1])
			depth--;
	} while (depth);
	return r.at == r.end ? cost : -EPROTO;
}

/* What one msgpack value takes once Python has decoded it, found out without decoding it: sixteen million empty maps are
 * sixteen megabytes on the wire and a gigabyte of dicts. Format: github.com/msgpack/msgpack, spec.md.
 *
 * No recursion, no allocation: `data` is a guest's. Sizes are CPython's on 64 bits (sys.getsizeof), rounded up.
 */
#include <errno.h>
#include <stdint.h>
#include <stddef.h>

#define MSGPACK_DEPTH 128
#define MSGPACK_CONTAINER 64 /* an empty list or dict, with what the collector keeps of it */
#define MSGPACK_SLOT 8	     /* of a list */
#define MSGPACK_ENTRY 100    /* of a dict, before it is next grown */
#define MSGPACK_TEXT 56
#define MSGPACK_NUMBER 32

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

/* One item's head. `count` is how many items follow in it; a map has two for each entry. */
static int msgpack_item(struct msgpack_reader *r, int64_t *cost, uint64_t *count, int *is_map)
{
    uint8_t head = *r->at++;
    uint64_t length = 0;
    int error = 0, text = 0;

    *count = 0;
    *is_map = -1; /* a scalar */
    if (head <= 0x7f)
        return 0; /* CPython keeps -5 to 256 */
    if (head >= 0xe0) {
        *cost += head >= 0xfb ? 0 : MSGPACK_NUMBER;
        return 0;
    }
    if (head <= 0x8f || head == 0xde || head == 0xdf) {
        *is_map = 1;
        error = head <= 0x8f ? (*count = head & 0x0f, 0) : msgpack_number(r, head == 0xde ? 2 : 4, count);
    } else if (head <= 0x9f || head == 0xdc || head == 0xdd) {
        *is_map = 0;
        error = head <= 0x9f ? (*count = head & 0x0f, 0) : msgpack_number(r, head == 0xdc ? 2 : 4, count);
    } else if (head <= 0xbf || (head >= 0xd9 && head <= 0xdb)) {
        text = 1;
        error = head <= 0xbf ? (length = head & 0x1f, 0) : msgpack_number(r, 1 << (head - 0xd9), &length);
    } else if (head >= 0xc4 && head <= 0xc6) {
        error = msgpack_number(r, 1 << (head - 0xc4), &length);
        *cost += MSGPACK_TEXT + (int64_t)length;
    } else if (head == 0xc0 || head == 0xc2 || head == 0xc3) {
        return 0;
    } else if (head == 0xca || head == 0xcb || (head >= 0xcc && head <= 0xd3)) {
        length = head == 0xca ? 4 : head == 0xcb ? 8 : 1u << ((head - 0xcc) & 3);
        *cost += head == 0xcc ? 0 : MSGPACK_NUMBER;
    } else {
        return head == 0xc1 ? -EPROTO : -EBADMSG; /* never used; extension types */
    }
    if (error || (uint64_t)(r->end - r->at) < length)
        return -EPROTO;
    if (text)
        *cost += msgpack_text(r->at, length);
    r->at += length;
    if (*is_map >= 0) {
        /* every item has a byte at least */
        if (*count > (uint64_t)(r->end - r->at) / (*is_map ? 2 : 1))
            return -EPROTO;
        *cost += MSGPACK_CONTAINER + (int64_t)*count * (*is_map ? MSGPACK_ENTRY : MSGPACK_SLOT);
        *count *= *is_map ? 2 : 1;
    }
    return 0;
}

/* The bytes that exactly one value takes. -EPROTO: malformed or not exactly one; -EBADMSG: an extension, or a key that is
 * a container; -ELOOP: nested deeper than `max_depth`; -E2BIG: more than `limit`. */
static int64_t msgpack_measure(const uint8_t *data, size_t length, int max_depth, int64_t limit)
{
    struct msgpack_reader r = {data, data + length};
    uint64_t left[MSGPACK_DEPTH], count;
    int map[MSGPACK_DEPTH], depth = 0, is_map;
    int64_t cost = 0;

    do {
        if (r.at == r.end)
            return -EPROTO;
        int is_key = depth && map[depth - 1] && left[depth - 1] % 2 == 0;
        if (depth)
            left[depth - 1]--;
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
            map[depth++] = is_map;
        }
        while (depth && !left[depth - 1])
            depth--;
    } while (depth);
    return r.at == r.end ? cost : -EPROTO;
}

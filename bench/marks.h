/* The mark at the beginning of every payload, with the sender, the number and the time of the line:
 *     "~#~"  kind: P, a probe, or D   talker: 4 letters   sequence number: 8 letters   [time: 16 letters]
 * Letters a to p stand for 0 to 15, because no protocol escapes letters. The time, in nanoseconds, is there if latency
 * is measured. */
#include <endian.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum { SHORT_MARK = 16, TIMED_MARK = 32 };

static void put_letters(char *to, uint64_t value, int count)
{
    for (int i = count - 1; i >= 0; i--, value >>= 4) to[i] = 'a' + (value & 15);
}
static void put_mark(char *to, char kind, uint32_t talker, uint32_t sequence)
{
    memcpy(to, "~#~", 3);
    to[3] = kind;
    put_letters(to + 4, talker, 4);
    put_letters(to + 8, sequence, 8);
}
static void put_time(char *mark, uint64_t ns) { put_letters(mark + SHORT_MARK, ns, 16); }

static uint32_t eight_letters(const char *p)
{
    uint64_t x;
    memcpy(&x, p, 8);
    x = be64toh(x) - 0x6161616161616161; /* all eight letters together: the first is the highest byte */
    x = (x | x >> 4) & 0x00ff00ff00ff00ff;
    x = (x | x >> 8) & 0x0000ffff0000ffff;
    return x | x >> 16;
}
static bool is_mark(const char *p) { return p[0] == '~' && p[1] == '#' && p[2] == '~'; }
static bool is_probe(const char *mark) { return mark[3] == 'P'; }
static uint32_t talker_of(const char *mark) { return eight_letters(mark + 4) >> 16; }
static uint32_t sequence_of(const char *mark) { return eight_letters(mark + 8); }
static uint64_t time_of(const char *mark)
{
    return (uint64_t)eight_letters(mark + SHORT_MARK) << 32 | eight_letters(mark + SHORT_MARK + 8);
}

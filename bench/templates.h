/* Templates of the bytes that members send: %n a name, %r a room, %t the payload, %l its length. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct { char *bytes; size_t length; } Text;

static Text unescaped(const char *s)
{
    Text t = { malloc(strlen(s) + 1), 0 };
    for (; *s; s++) {
        char c = *s;
        if (c == '\\' && s[1]) {
            c = *++s;
            if (c == 'n') c = '\n';
            else if (c == 'r') c = '\r';
            else if (c == 't') c = '\t';
            else if (c == 'x' && s[1] && s[2]) { char hex[3] = { s[1], s[2], 0 }; c = strtol(hex, 0, 16); s += 2; }
        }
        t.bytes[t.length++] = c;
    }
    return t;
}
/* fill a template for one member, from `*at` to the place of the payload or the end; `*at` is then behind that */
static Text filled(Text template, size_t *at, int number, int room, int payload)
{
    Text t = { malloc(template.length * 8 + 32), 0 };
    size_t i = *at;
    for (; i < template.length; i++) {
        char *to = t.bytes + t.length, c = template.bytes[i];
        if (c != '%' || i + 1 == template.length) { *to = c; t.length++; continue; }
        c = template.bytes[++i];
        if (c == 't') { i++; break; }
        if (c == 'n') t.length += sprintf(to, "u%06d", number);
        else if (c == 'r') t.length += sprintf(to, "r%04d", room);
        else if (c == 'l') t.length += sprintf(to, "%d", payload);
        else { *to = c; t.length++; }
    }
    *at = i;
    return t;
}

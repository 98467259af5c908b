/* A test that fails says where, and ends the program. */
#ifndef CHECK_H
#define CHECK_H

#include <quicksilver.h>
#include <quicksilver.h> /* twice: the header guards itself */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* _Exit, so that a failure in a forked child ends the child and nothing else. */
#define CHECK(condition)                                                                       \
    do {                                                                                       \
        if (!(condition)) {                                                                    \
            fprintf(stderr, "%s:%d: not true: %s; last error: %s\n", __FILE__, __LINE__,       \
                    #condition, qs_last_error());                                              \
            _Exit(1);                                                                          \
        }                                                                                      \
    } while (0)

/* Expects `call` to return `code`. */
#define RETURNS(code, call)                                                                    \
    do {                                                                                       \
        qs_result found_ = (call);                                                             \
        if (found_ != (code)) {                                                                \
            fprintf(stderr, "%s:%d: %s returned %d (%s), expected %s; last error: %s\n",       \
                    __FILE__, __LINE__, #call, (int)found_, qs_strerror((int)found_), #code,   \
                    qs_last_error());                                                          \
            _Exit(1);                                                                          \
        }                                                                                      \
    } while (0)

/* Whether a slice or a value holds a text. */
#define HOLDS(bytes, text)                                                                     \
    ((bytes).size == strlen(text) && memcmp((bytes).data, text, strlen(text)) == 0)

#define IS_EMPTY(bytes) ((bytes).data == NULL && (bytes).size == 0)

/* A slice of a text. */
static inline qs_slice slice(const char *text)
{
    qs_slice it = {(const uint8_t *)text, strlen(text)};
    return it;
}

/* What ffi/tests/workshop/mod.rs puts into the database. */
enum { NUMBERS = 200, KEYS = NUMBERS + 6, LONG_BYTES = 1 << 20 };

#endif

/* A test that fails says where, and ends the program. */
#ifndef CHECK_H
#define CHECK_H

#include <stdio.h>
#include <stdlib.h>

#include "quicksilver.h"

#define CHECK(condition)                                                                       \
    do {                                                                                       \
        if (!(condition)) {                                                                    \
            fprintf(stderr, "%s:%d: not true: %s; last error: %s\n", __FILE__, __LINE__,       \
                    #condition, qs_last_error());                                              \
            exit(1);                                                                           \
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
            exit(1);                                                                           \
        }                                                                                      \
    } while (0)

#endif

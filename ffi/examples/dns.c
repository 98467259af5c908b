/*
 * A tiny server that answers out of the database.
 *
 *     dns [--once N] DIR
 *
 * A datagram holds a name, such as example.org; the answer is the value of the key
 * zone/example.org, or NXDOMAIN. It prints the address that it listens on. With --once it answers
 * N questions and ends.
 *
 *     cc -o dns dns.c $(pkg-config --cflags --libs quicksilver)
 *     ./dns /var/lib/quicksilver/dns &
 *     echo example.org | nc -u -w1 127.0.0.1 PORT
 */
#include <quicksilver.h>

#include <arpa/inet.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { QUESTION_MAX_BYTES = 255, ANSWER_MAX_BYTES = 4096 };

/* Ends the program: nothing works without what failed. */
static void fail(const char *what, const char *why)
{
    fprintf(stderr, "dns: %s: %s\n", what, why);
    exit(1);
}

/* A socket on a free port of loopback. */
static int listen_somewhere(void)
{
    struct sockaddr_in address = {0};
    socklen_t size = sizeof address;
    int server = socket(AF_INET, SOCK_DGRAM, 0);

    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (server < 0 || bind(server, (struct sockaddr *)&address, size) != 0 ||
        getsockname(server, (struct sockaddr *)&address, &size) != 0) {
        perror("dns: socket");
        exit(1);
    }
    printf("listening on 127.0.0.1:%d\n", ntohs(address.sin_port));
    fflush(stdout);
    return server;
}

/* Writes the answer to a name, and returns its size. */
static size_t answer(const qs_db *db, const char *name, size_t name_size, char *to)
{
    char key[sizeof "zone/" + QUESTION_MAX_BYTES] = "zone/";
    size_t n, size, key_size = strlen(key);
    const char *instead;

    for (n = 0; n < name_size && !isspace((unsigned char)name[n]); n++)
        key[key_size++] = (char)tolower((unsigned char)name[n]);

    switch (qs_get_into(db, key, key_size, to, ANSWER_MAX_BYTES, &size)) {
    case QS_OK:
        return size;
    case QS_NOT_FOUND:
        instead = "NXDOMAIN";
        break;
    default:
        /* Say why, and go on: the next question may well have an answer. */
        fprintf(stderr, "dns: %.*s: %s\n", (int)key_size, key, qs_last_error());
        instead = "SERVFAIL";
        break;
    }
    size = strlen(instead);
    memcpy(to, instead, size);
    return size;
}

int main(int argc, char **argv)
{
    qs_db *db;
    char question[QUESTION_MAX_BYTES], reply[ANSWER_MAX_BYTES];
    long left = -1; /* without end */
    int server;

    if (argc == 4 && strcmp(argv[1], "--once") == 0) {
        left = atol(argv[2]);
    } else if (argc != 2) {
        fprintf(stderr, "usage: %s [--once N] DIR\n", argv[0]);
        return 2;
    }
    if (qs_open(argv[argc - 1], NULL, &db) != QS_OK)
        fail("cannot open the database", qs_last_error());

    server = listen_somewhere();
    while (left != 0) {
        struct sockaddr_in client;
        socklen_t size = sizeof client;
        ssize_t got = recvfrom(server, question, sizeof question, 0, (struct sockaddr *)&client,
                               &size);
        if (got < 0)
            continue; /* a signal, or a client that is gone */
        sendto(server, reply, answer(db, question, (size_t)got, reply), 0,
               (struct sockaddr *)&client, size);
        if (left > 0)
            left--;
    }
    qs_close(db);
    return 0;
}

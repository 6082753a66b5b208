/* What both programs need: a connection, a queue, and numbers from the command line. */
#ifndef COMMON_H
#define COMMON_H

#include <amqp.h>
#include <stdint.h>

struct broker {
    const char *host;
    int port;
    const char *user;
    const char *password;
    const char *vhost;
    const char *queue;
    const char *queue_type; /* quorum or classic */
};

_Noreturn void fail(const char *what);
void check(amqp_rpc_reply_t reply, const char *what);

/* The first seven arguments of both programs, in the order of the struct. */
struct broker broker_of(char **arguments);

/* A connection with channel 1 open and the queue declared. */
amqp_connection_state_t open_broker(const struct broker *broker);

/* CLOCK_MONOTONIC, which is the same in all processes. */
uint64_t now_ns(void);

#endif

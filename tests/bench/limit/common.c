#include "common.h"

#include <amqp_tcp_socket.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

_Noreturn void fail(const char *what) {
    fprintf(stderr, "%s\n", what);
    exit(1);
}

void check(amqp_rpc_reply_t reply, const char *what) {
    if (reply.reply_type != AMQP_RESPONSE_NORMAL) fail(what);
}

struct broker broker_of(char **arguments) {
    return (struct broker){
        .host = arguments[0],
        .port = atoi(arguments[1]),
        .user = arguments[2],
        .password = arguments[3],
        .vhost = arguments[4],
        .queue = arguments[5],
        .queue_type = arguments[6],
    };
}

amqp_connection_state_t open_broker(const struct broker *broker) {
    amqp_connection_state_t connection = amqp_new_connection();
    amqp_socket_t *socket = amqp_tcp_socket_new(connection);
    if (!socket || amqp_socket_open(socket, broker->host, broker->port)) fail("no connection");
    check(amqp_login(connection, broker->vhost, 0, 131072, 0, AMQP_SASL_METHOD_PLAIN, broker->user, broker->password),
          "login");
    amqp_channel_open(connection, 1);
    check(amqp_get_rpc_reply(connection), "channel.open");

    amqp_table_entry_t entry = {
        .key = amqp_cstring_bytes("x-queue-type"),
        .value = {.kind = AMQP_FIELD_KIND_UTF8, .value.bytes = amqp_cstring_bytes(broker->queue_type)},
    };
    amqp_table_t arguments = {.num_entries = 1, .entries = &entry};
    amqp_queue_declare(connection, 1, amqp_cstring_bytes(broker->queue), 0, 1, 0, 0, arguments);
    check(amqp_get_rpc_reply(connection), "queue.declare");
    return connection;
}

uint64_t now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

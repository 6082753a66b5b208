/* Consumes as fast as C can: prefetch, one acknowledgement for many, and the time of each event into the ledger.
 *
 *   consume HOST PORT USER PASSWORD VHOST QUEUE QUEUE_TYPE LEDGER PREFETCH ACK_EACH HANDLER_US
 *
 * The ledger is a file of 64-bit slots: an event {"n": 7, …} writes the time into slot 7. Runs until it is killed.
 */
#include "common.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* What stands before the number in every event. */
#define BEFORE_NUMBER "{\"n\":"

static volatile uint64_t *open_ledger(const char *path, size_t *slots) {
    int file = open(path, O_RDWR);
    struct stat state;
    if (file < 0 || fstat(file, &state)) fail("no ledger");
    void *memory = mmap(NULL, state.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (memory == MAP_FAILED) fail("no ledger");
    *slots = state.st_size / sizeof(uint64_t);
    return memory;
}

static unsigned long number_of(amqp_bytes_t body) {
    size_t before = strlen(BEFORE_NUMBER);
    if (body.len <= before || memcmp(body.bytes, BEFORE_NUMBER, before)) fail("an event of somebody else");
    /* A number ends with a comma or a brace, so it is read no further than the body. */
    return strtoul((const char *)body.bytes + before, NULL, 10);
}

int main(int count, char **arguments) {
    if (count != 12) fail("usage: see the top of consume.c");
    struct broker broker = broker_of(arguments + 1);
    size_t slots;
    volatile uint64_t *ledger = open_ledger(arguments[8], &slots);
    int prefetch = atoi(arguments[9]), ack_each = atoi(arguments[10]), handler_us = atoi(arguments[11]);

    amqp_connection_state_t connection = open_broker(&broker);
    amqp_basic_qos(connection, 1, 0, prefetch, 0);
    check(amqp_get_rpc_reply(connection), "basic.qos");
    amqp_basic_consume(connection, 1, amqp_cstring_bytes(broker.queue), amqp_empty_bytes, 0, 0, 0, amqp_empty_table);
    check(amqp_get_rpc_reply(connection), "basic.consume");

    int unacked = 0;
    uint64_t last_tag = 0;
    /* What is not acked when nothing more comes is acked then. */
    struct timeval no_wait = {0, 0};
    for (;;) {
        amqp_envelope_t envelope;
        amqp_maybe_release_buffers(connection);
        amqp_rpc_reply_t reply = amqp_consume_message(connection, &envelope, unacked ? &no_wait : NULL, 0);
        int is_idle = reply.reply_type == AMQP_RESPONSE_LIBRARY_EXCEPTION &&
                      reply.library_error == AMQP_STATUS_TIMEOUT;
        if (!is_idle) {
            check(reply, "basic.deliver");
            unsigned long number = number_of(envelope.message.body);
            if (number >= slots) fail("an event of another run");
            if (handler_us) usleep(handler_us);
            ledger[number] = now_ns();
            last_tag = envelope.delivery_tag;
            unacked++;
            amqp_destroy_envelope(&envelope);
        }
        if (unacked >= ack_each || (is_idle && unacked)) {
            if (amqp_basic_ack(connection, 1, last_tag, 1)) fail("basic.ack");
            unacked = 0;
        }
    }
}

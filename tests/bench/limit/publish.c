/* Publishes as fast as C can, with a window of publishes that await their confirms.
 *
 *   publish HOST PORT USER PASSWORD VHOST QUEUE QUEUE_TYPE EVENTS RESULT FIRST COUNT WINDOW PER_SECOND BURST
 *
 * EVENTS is a file of JSON objects, one a line; event number n is a line with "n" put first. PER_SECOND 0: as fast as
 * may be; else so many a second, in bursts of BURST. RESULT gets JSON: when it began and ended, on the monotonic clock,
 * its own processor time, and, where WINDOW is 1, how long each publish took; all in nanoseconds.
 */
#include "common.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MOST_LINES 512

static char *lines[MOST_LINES];
static size_t line_count;

static void read_lines(const char *path) {
    FILE *file = fopen(path, "r");
    size_t room;
    if (!file) fail("no events");
    while (line_count < MOST_LINES) {
        char *line = NULL;
        ssize_t length = getline(&line, &room, file);
        if (length <= 1) break;
        line[length - 1] = 0;
        lines[line_count++] = line + 1; /* without its brace */
        room = 0;
    }
    fclose(file);
    if (!line_count) fail("no events");
}

static uint64_t processor_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static void wait_until(uint64_t at_ns) {
    struct timespec at = {.tv_sec = at_ns / 1000000000u, .tv_nsec = at_ns % 1000000000u};
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
}

/* Reads one frame; returns how many publishes it confirms, given how many are confirmed so far. */
static uint64_t confirmed_by(amqp_connection_state_t connection, uint64_t confirmed) {
    amqp_frame_t frame;
    if (amqp_simple_wait_frame(connection, &frame)) fail("no confirm");
    amqp_maybe_release_buffers(connection);
    if (frame.frame_type != AMQP_FRAME_METHOD) return 0;
    if (frame.payload.method.id != AMQP_BASIC_ACK_METHOD) fail("refused by the broker");
    amqp_basic_ack_t *ack = frame.payload.method.decoded;
    if (!ack->multiple) return 1;
    return ack->delivery_tag > confirmed ? ack->delivery_tag - confirmed : 0;
}

int main(int argument_count, char **arguments) {
    if (argument_count != 15) fail("usage: see the top of publish.c");
    struct broker broker = broker_of(arguments + 1);
    read_lines(arguments[8]);
    const char *result_path = arguments[9];
    uint64_t first = strtoull(arguments[10], NULL, 10), count = strtoull(arguments[11], NULL, 10);
    uint64_t window = strtoull(arguments[12], NULL, 10);
    double per_second = atof(arguments[13]);
    uint64_t burst = strtoull(arguments[14], NULL, 10);

    amqp_connection_state_t connection = open_broker(&broker);
    amqp_confirm_select(connection, 1);
    check(amqp_get_rpc_reply(connection), "confirm.select");
    amqp_basic_properties_t properties = {
        ._flags = AMQP_BASIC_DELIVERY_MODE_FLAG | AMQP_BASIC_CONTENT_TYPE_FLAG,
        .delivery_mode = 2,
        .content_type = amqp_cstring_bytes("application/json"),
    };
    uint64_t *took = window == 1 ? calloc(count, sizeof *took) : NULL;
    size_t longest = 0;
    for (size_t i = 0; i < line_count; i++) longest = strlen(lines[i]) > longest ? strlen(lines[i]) : longest;
    char *body = malloc(longest + 64);

    uint64_t processor_before = processor_ns(), began = now_ns(), confirmed = 0;
    for (uint64_t i = 0; i < count; i++) {
        if (per_second > 0 && i % burst == 0) wait_until(began + (uint64_t)(i / per_second * 1e9));
        uint64_t before = now_ns();
        int length = sprintf(body, "{\"n\":%llu,%s", (unsigned long long)(first + i), lines[(first + i) % line_count]);
        amqp_bytes_t bytes = {.len = length, .bytes = body};
        if (amqp_basic_publish(connection, 1, amqp_empty_bytes, amqp_cstring_bytes(broker.queue), 0, 0, &properties,
                               bytes))
            fail("basic.publish");
        while (i + 1 - confirmed >= window) confirmed += confirmed_by(connection, confirmed);
        if (took) took[i] = now_ns() - before;
    }
    while (confirmed < count) confirmed += confirmed_by(connection, confirmed);
    uint64_t ended = now_ns(), processor = processor_ns() - processor_before;

    FILE *result = fopen(result_path, "w");
    if (!result) fail("no result");
    fprintf(result, "{\"began_ns\":%llu,\"ended_ns\":%llu,\"cpu_ns\":%llu,\"took_ns\":[", (unsigned long long)began,
            (unsigned long long)ended, (unsigned long long)processor);
    for (uint64_t i = 0; took && i < count; i++) fprintf(result, "%s%llu", i ? "," : "", (unsigned long long)took[i]);
    fprintf(result, "]}\n");
    return fclose(result) ? 1 : 0;
}

#include "server/remote.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "pool/clock.h"

static const uint64_t ns_per_ms = 1000ull * 1000;

void remote_pause(uint32_t milliseconds)
{
    const struct timespec pause = {
        .tv_sec = milliseconds / 1000,
        .tv_nsec = (long)(milliseconds % 1000) * 1000 * 1000,
    };
    nanosleep(&pause, NULL);
}

static int exit_code_of(uint32_t result)
{
    switch ((enum result)result) {
    case RESULT_OK:
        return CLI_EXIT_OK;
    case RESULT_BAD_MAGIC:
    case RESULT_BAD_HEADER:
    case RESULT_BAD_OPERATION:
    case RESULT_INTERNAL:
    case RESULT_STALE_NUMBER:
    case RESULT_BAD_LANE:
        return CLI_EXIT_SOFTWARE;
    case RESULT_BAD_VERSION:
        return status_exit_code(STATUS_VERSION);
    case RESULT_BAD_BODY:
    case RESULT_TOO_BIG:
    case RESULT_BAD_SCHEMA:
        return CLI_EXIT_DATA;
    case RESULT_UNKNOWN_GROOVE:
    case RESULT_UNKNOWN_INDEX:
    case RESULT_NO_SESSION:
        return CLI_EXIT_NOT_FOUND;
    case RESULT_GROOVE_EXISTS:
    case RESULT_LIMIT:
    case RESULT_FULL:
    case RESULT_BUDGET:
        return CLI_EXIT_CREATE;
    case RESULT_BUSY:
    case RESULT_STALE_SCHEMA:
    case RESULT_EXPIRED:
    case RESULT_OVERTAKEN:
    case RESULT_LANE_BUSY:
        return CLI_EXIT_RETRY;
    case RESULT_SHUTTING_DOWN:
        return CLI_EXIT_SERVICE;
    case RESULT_READ_ONLY:
    case RESULT_CORRUPT:
        return CLI_EXIT_CORRUPT;
    case RESULT_DENIED:
        return status_exit_code(STATUS_DENIED);
    }
    return CLI_EXIT_SOFTWARE; /* A result of a newer daemon. */
}

/* What to do about a result, as a sentence, or NULL where its text already says it. */
static const char *advice_for(uint32_t result)
{
    switch ((enum result)result) {
    case RESULT_BUSY:
    case RESULT_EXPIRED:
        return "Run the command again in a moment.";
    case RESULT_OVERTAKEN:
        return "Ask for less (a narrower condition, --limit), or again when less is written.";
    case RESULT_BUDGET:
        return "Ask for less (a narrower condition, --limit), or start the daemon with a larger "
               "--read-budget.";
    case RESULT_FULL:
        return "Free space on the data file's disk; the daemon goes on by itself.";
    case RESULT_READ_ONLY:
    case RESULT_CORRUPT:
        return "Stop the daemon, run 'holt verify' on its data file, and restore what it names.";
    case RESULT_BAD_VERSION:
        return "Use the holt of the daemon's version ('holt version' on both sides).";
    case RESULT_UNKNOWN_GROOVE:
        return "'holt stat' lists the grooves, 'holt create' makes one.";
    case RESULT_GROOVE_EXISTS:
        return "'holt stat' shows it; 'holt drop' removes it with all its objects.";
    case RESULT_LIMIT:
        return "'holt drop' a groove, or format a file with more trees.";
    case RESULT_INTERNAL:
        return "The daemon's log says more.";
    case RESULT_OK:
    case RESULT_BAD_MAGIC:
    case RESULT_BAD_HEADER:
    case RESULT_BAD_OPERATION:
    case RESULT_BAD_BODY:
    case RESULT_TOO_BIG:
    case RESULT_UNKNOWN_INDEX:
    case RESULT_BAD_SCHEMA:
    case RESULT_SHUTTING_DOWN:
    case RESULT_STALE_SCHEMA:
    case RESULT_DENIED:
    case RESULT_NO_SESSION:
    case RESULT_STALE_NUMBER:
    case RESULT_BAD_LANE:
    case RESULT_LANE_BUSY:
        return NULL;
    }
    return NULL;
}

int remote_refuse_status(const struct remote *remote, enum client_status status)
{
    struct stat info;
    const bool other =
        status == CLIENT_NOBODY && stat(remote->socket_path, &info) == 0 && !S_ISSOCK(info.st_mode);
    cli_error(remote->command, "%s: %s", remote->socket_path,
              other ? "this is not a socket" : client_status_text(status));
    if (status == CLIENT_NO_SOCKET || status == CLIENT_NOBODY) {
        fprintf(stderr, "'holt start FILE' starts a daemon; its socket is FILE.sock unless it was "
                        "told otherwise.\n");
    } else if (status == CLIENT_TIMEOUT || status == CLIENT_LOST) {
        fprintf(stderr,
                "It may be that all its connections are taken: the daemon closes those above "
                "--connections,\nand counts them (connections_refused of 'holt stat "
                "--json'). Or it is stopping, or its disk is slow: see its log.\n");
    }
    return client_status_exit_code(status);
}

int remote_refuse_result(const struct remote *remote, const struct client_reply *reply,
                         const char *about)
{
    assert(reply->result != RESULT_OK);

    const char *text =
        reply->body_size > 0 ? (const char *)reply->body : result_text(reply->result);
    const int text_size =
        reply->body_size > 0 ? (int)reply->body_size : (int)strlen(result_text(reply->result));
    if (about != NULL) {
        cli_error(remote->command, "%s: %.*s", about, text_size, text);
    } else {
        cli_error(remote->command, "%.*s", text_size, text);
    }
    const char *advice = advice_for(reply->result);
    if (advice != NULL) {
        fprintf(stderr, "%s\n", advice);
    }
    return exit_code_of(reply->result);
}

int remote_open(struct remote *remote, const struct cli_command *command, const char *socket_path)
{
    *remote = (struct remote){.command = command, .socket_path = socket_path};
    if (remote->socket_path == NULL) {
        remote->socket_path = getenv("HOLT_SOCKET");
    }
    if (remote->socket_path == NULL || remote->socket_path[0] == '\0') {
        return cli_usage(command, "which daemon? Give --socket PATH, or set HOLT_SOCKET");
    }
    const struct client_options options = {
        .socket_path = remote->socket_path,
        .message_size_max = REMOTE_MESSAGE_SIZE_MAX,
    };
    const enum client_status status = client_open(&options, &remote->client);
    return status == CLIENT_OK ? CLI_GO_ON : remote_refuse_status(remote, status);
}

void remote_close(struct remote *remote)
{
    client_close(remote->client);
    *remote = (struct remote){0};
}

int remote_call(struct remote *remote, enum operation operation, const void *body,
                uint32_t body_size, const char *about, struct client_reply *reply)
{
    const uint64_t begin_ns = clock_monotonic_ns(&clock_system);
    for (;;) {
        const enum client_status status =
            client_call(remote->client, operation, body, body_size, REMOTE_TIMEOUT_MS, reply);
        if (status != CLIENT_OK) {
            return remote_refuse_status(remote, status);
        }
        const uint64_t took_ns = clock_monotonic_ns(&clock_system) - begin_ns;
        if (reply->result != RESULT_BUSY || took_ns > REMOTE_TIMEOUT_MS * ns_per_ms) {
            break;
        }
        remote_pause(reply->retry_after_ms);
    }
    return reply->result == RESULT_OK ? CLI_GO_ON : remote_refuse_result(remote, reply, about);
}

/* A daemon of our own version never sends this. */
static int refuse_reply(const struct remote *remote)
{
    cli_error(remote->command, "the daemon's answer cannot be understood; is its version another? "
                               "('holt version' and 'holt stat' tell)");
    return CLI_EXIT_SOFTWARE;
}

int remote_hello(struct remote *remote, struct hello_reply *hello)
{
    struct client_reply reply;
    const int exit_code = remote_call(remote, OPERATION_HELLO, NULL, 0, NULL, &reply);
    if (exit_code != CLI_GO_ON) {
        return exit_code;
    }
    if (reply.body_size < sizeof *hello) {
        return refuse_reply(remote);
    }
    memcpy(hello, reply.body, sizeof *hello);
    hello->version[sizeof hello->version - 1] = '\0';
    return CLI_GO_ON;
}

int remote_shape(struct remote *remote, const char *groove_name, struct shape *shape)
{
    struct client_reply reply;
    struct schema_reply schema;
    const int exit_code = remote_call(remote, OPERATION_SCHEMA, NULL, 0, NULL, &reply);
    if (exit_code != CLI_GO_ON) {
        return exit_code;
    }
    if (reply.body_size < sizeof schema) {
        return refuse_reply(remote);
    }
    memcpy(&schema, reply.body, sizeof schema);
    uint32_t offset = sizeof schema;
    for (uint32_t i = 0; i < schema.groove_count; i++) {
        if (!shape_decode(reply.body, reply.body_size, &offset, shape)) {
            return refuse_reply(remote);
        }
        if (strcmp(shape->spec.name, groove_name) == 0) {
            return CLI_GO_ON;
        }
    }
    cli_error(remote->command, "there is no groove '%s'", groove_name);
    fprintf(stderr, schema.groove_count == 0 ? "There are none yet; 'holt create' makes one.\n"
                                             : "There are:");
    offset = sizeof schema;
    for (uint32_t i = 0; i < schema.groove_count; i++) {
        if (shape_decode(reply.body, reply.body_size, &offset, shape)) {
            fprintf(stderr, " %s%s", shape->spec.name, i + 1 < schema.groove_count ? "," : "\n");
        }
    }
    return CLI_EXIT_NOT_FOUND;
}

/* Goal: a line is one write, well-formed in both formats whatever bytes it carries and however long
 * they are, and carries the values it was given. Method: lines are read back from a pipe; JSON
 * lines are parsed strictly by a reader of this file's own and compared with what went in, over
 * many seeds of arbitrary bytes. */
#include "pool/log.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "pool/memory.h"

static int read_end;
static int write_end;

static void setup(void)
{
    int ends[2];
    cr_assert(eq(int, pipe(ends), 0));
    read_end = ends[0];
    write_end = ends[1];
    log_configure(LOG_FORMAT_LOGFMT, LOG_LEVEL_DEBUG, write_end);
}

/* The next line, without its newline. The pipe keeps whole writes of this size together. */
static char *read_line(void)
{
    static char line[2 * LOG_LINE_MAX];

    const ssize_t size = read(read_end, line, sizeof line - 1);
    cr_assert(gt(int, (int)size, 0));
    cr_assert(le(int, (int)size, LOG_LINE_MAX));
    line[size] = '\0';
    cr_assert(eq(ptr, strchr(line, '\n'), line + size - 1), "one newline, at the end: %s", line);
    line[size - 1] = '\0';
    return line;
}

/* What follows the time, whose shape is checked here. */
static char *read_after_time(void)
{
    char *line = read_line();
    const char *shape = "time=dddd-dd-ddTdd:dd:dd.dddZ ";

    for (size_t i = 0; shape[i] != '\0'; i++) {
        cr_assert(shape[i] == 'd' ? isdigit(line[i]) != 0 : line[i] == shape[i], "%s", line);
    }
    return line + strlen(shape);
}

TestSuite(log, .init = setup, .timeout = 120);

Test(log, logfmt_of_every_kind)
{
    LOG_INFO("test.kinds", log_u64("u", UINT64_MAX), log_i64("i", INT64_MIN), log_hex("h", 0xbeef),
             log_f64("f", 0.25), log_f64("n", NAN), log_f64("m", -INFINITY), log_text("t", "/x"));
    cr_assert(eq(str, read_after_time(),
                 "level=info event=test.kinds u=18446744073709551615 i=-9223372036854775808 "
                 "h=0xbeef f=0.25 n=nan m=-inf t=/x"));
}

Test(log, json_of_every_kind)
{
    log_configure(LOG_FORMAT_JSON, LOG_LEVEL_DEBUG, write_end);
    LOG_ERROR("test.kinds", log_u64("u", UINT64_MAX), log_i64("i", INT64_MIN), log_hex("h", 0xbeef),
              log_f64("f", 1e300), log_f64("n", NAN), log_text("t", "a\"b"));
    cr_assert(eq(str, strchr(read_line(), ','),
                 ",\"level\":\"error\",\"event\":\"test.kinds\",\"u\":18446744073709551615,"
                 "\"i\":-9223372036854775808,\"h\":\"0xbeef\",\"f\":1e+300,\"n\":null,"
                 "\"t\":\"a\\\"b\"}"));
}

Test(log, logfmt_quotes_what_is_not_a_bare_word)
{
    LOG_WARN("test.text", log_text("a", ""), log_text("b", NULL), log_text("c", "a b"),
             log_text("d", "x=y"), log_text("e", "q\"\\"), log_text("f", "\n\x1b\x7f"),
             log_text("g", "\xc3\xa9"), log_text("h", "\xff\xc2\x9b"));
    cr_assert(eq(str, read_after_time(),
                 "level=warn event=test.text a=\"\" b=\"\" c=\"a b\" d=\"x=y\" e=\"q\\\"\\\\\" "
                 "f=\"\\x0a\\x1b\\x7f\" g=\"\xc3\xa9\" h=\"\\xff\\xc2\\x9b\""));
}

Test(log, level_and_lack_of_fields)
{
    log_configure(LOG_FORMAT_LOGFMT, LOG_LEVEL_WARN, write_end);
    LOG_DEBUG0("unseen");
    LOG_INFO0("unseen");
    LOG_WARN0("seen");
    cr_assert(eq(str, read_after_time(), "level=warn event=seen"));
    LOG_ERROR0("seen.too");
    cr_assert(eq(str, read_after_time(), "level=error event=seen.too"));
}

Test(log, time_is_now)
{
    const time_t before = time(NULL);
    LOG_INFO0("now");
    struct tm tm = {0};
    cr_assert(ne(ptr, strptime(read_line(), "time=%Y-%m-%dT%H:%M:%S", &tm), NULL));
    const time_t logged = timegm(&tm);
    cr_assert(ge(i64, logged + 1, before));
    cr_assert(le(i64, logged, time(NULL) + 1));
}

Test(log, a_line_allocates_nothing_and_keeps_errno)
{
    errno = 42;
    memory_forbid_allocation();
    LOG_INFO("quiet", log_f64("f", 123456.789e-30), log_text("t", "\xff \xc3\xa9"));
    memory_allow_allocation();
    cr_assert(eq(int, errno, 42));
    (void)read_line();
}

Test(log, nobody_listening_is_survived)
{
    signal(SIGPIPE, SIG_IGN);
    close(read_end);
    LOG_INFO0("into the void");
    close(write_end);
    LOG_INFO0("into the void");
}

Test(log, fatal_tells_why_and_exits_with_its_code)
{
    const pid_t child = fork();
    if (child == 0) {
        fatal(STATUS_NO_SPACE, "journal.write", "/data/x", "free some space");
    }
    int result;
    cr_assert(eq(int, waitpid(child, &result, 0), child));
    cr_assert(ne(int, WIFEXITED(result), 0));
    cr_assert(eq(int, WEXITSTATUS(result), status_exit_code(STATUS_NO_SPACE)));
    cr_assert(eq(str, read_after_time(),
                 "level=error event=journal.write what=/data/x advice=\"free some space\" "
                 "status=\"no space is left for the data file\""));
}

Test(log, fatal_without_a_reason_is_a_bug, .signal = SIGABRT)
{
    fatal(STATUS_OK, "x", NULL, NULL);
}

/* The JSON reader. Each function takes the text at a token, checks it and returns what follows. */

static char *parse_string(char *text, unsigned char *value, size_t *value_size)
{
    cr_assert(eq(chr, *text, '"'), "%s", text);
    text += 1;
    *value_size = 0;
    while (*text != '"') {
        const unsigned char byte = (unsigned char)*text;
        cr_assert(byte >= 0x20, "control character or end within a string");
        if (byte != '\\') {
            value[(*value_size)++] = byte;
            text += 1;
        } else if (text[1] == 'u') {
            char digits[5] = {0};
            memcpy(digits, text + 2, 4);
            cr_assert(strspn(digits, "0123456789abcdef") == 4);
            /* Only bytes are written so; 0xff stands for itself here. */
            value[(*value_size)++] = (unsigned char)strtoul(digits, NULL, 16);
            text += 6;
        } else {
            cr_assert(text[1] == '"' || text[1] == '\\');
            value[(*value_size)++] = (unsigned char)text[1];
            text += 2;
        }
    }
    return text + 1;
}

struct parsed {
    unsigned char text[LOG_LINE_MAX]; /* of the field "text" */
    size_t text_size;
    uint64_t last; /* of the field "last" */
    bool has_last;
    bool cut;
};

static void parse_line(char *line, struct parsed *parsed)
{
    unsigned char name[LOG_LINE_MAX];
    unsigned char value[LOG_LINE_MAX];
    size_t size;

    *parsed = (struct parsed){0};
    cr_assert(eq(chr, *line, '{'));
    do {
        line = parse_string(line + 1, name, &size);
        name[size] = '\0';
        cr_assert(eq(chr, *line, ':'));
        line += 1;
        if (*line == '"') {
            line = parse_string(line, value, &size);
            if (strcmp((char *)name, "text") == 0) {
                memcpy(parsed->text, value, size);
                parsed->text_size = size;
            }
        } else if (strncmp(line, "true", 4) == 0) {
            cr_assert(eq(str, (char *)name, "cut"));
            parsed->cut = true;
            line += 4;
        } else {
            cr_assert(ne(int, isdigit(*line), 0));
            cr_assert(eq(str, (char *)name, "last"));
            parsed->has_last = true;
            parsed->last = strtoull(line, &line, 10);
        }
    } while (*line == ',');
    cr_assert(eq(str, line, "}"));
}

/* Mostly letters, sometimes what needs an escape, sometimes pieces of UTF-8. */
static void fill_text(char *text, size_t size, unsigned *seed)
{
    static const unsigned char oddities[] = {'"',  '\\', '\n', 0x7f, 0xc3, 0xa9, 0xe2,
                                             0x82, 0xac, 0xff, 0xf0, 0x9f, 0xed, 0xa0};
    const bool odd = rand_r(seed) % 2;
    for (size_t i = 0; i < size; i++) {
        const unsigned pick = (unsigned)rand_r(seed);
        text[i] = odd && pick % 4 == 0 ? (char)oddities[pick / 4 % sizeof oddities]
                                       : (char)('a' + pick / 4 % 26);
    }
    text[size] = '\0';
}

Test(log, any_text_of_any_length_is_well_formed)
{
    static char text[3 * LOG_LINE_MAX];
    static struct parsed parsed;
    uint32_t cut_count = 0;

    log_configure(LOG_FORMAT_JSON, LOG_LEVEL_DEBUG, write_end);
    for (unsigned round = 0; round < 2000; round++) {
        unsigned seed = round;
        /* Half of them around the length where the line is full. */
        const size_t size =
            round % 2 ? (unsigned)rand_r(&seed) % sizeof text : 3900 + round / 2 % 200;
        fill_text(text, size, &seed);
        LOG_INFO("test", log_text("text", text), log_u64("last", round));
        parse_line(read_line(), &parsed);
        cr_assert(le(sz, parsed.text_size, size));
        cr_assert(eq(int, memcmp(parsed.text, text, parsed.text_size), 0));
        if (parsed.cut) {
            cut_count += 1;
            cr_assert(not(parsed.has_last));
        } else {
            cr_assert(eq(sz, parsed.text_size, size));
            cr_assert(eq(u64, parsed.last, round));
        }
    }
    cr_assert(gt(u32, cut_count, 400));
    cr_assert(lt(u32, cut_count, 1900));
}

Test(log, long_logfmt_lines_are_cut_and_say_so)
{
    static char text[2 * LOG_LINE_MAX];

    for (size_t size = 3900; size < 4200; size++) {
        memset(text, 'x', size);
        text[size] = '\0';
        text[7] = size % 2 ? 'x' : ' ';
        LOG_INFO("test", log_text("text", text), log_u64("last", 7));
        char *line = read_after_time();
        const size_t line_size = strlen(line);
        if (strcmp(line + line_size - 9, " cut=true") == 0) {
            cr_assert(line[line_size - 10] == '"' || line[line_size - 10] == 'x');
        } else {
            cr_assert(eq(str, line + line_size - 7, " last=7"));
        }
    }
}

/* What `holt start` can be told: a configuration file, variables and flags.
 *
 * Input: the file up to a NUL, then lines "name=value", each an option that a flag or a variable
 * sets. What is accepted is within its bounds. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "server/config.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static char text[1 << 16];
    struct fuzz_input input = {data, size};
    struct config config;
    char error[CONFIG_ERROR_SIZE] = "";
    char path[64];

    const size_t text_size = fuzz_text(&input, 0, text, sizeof text);
    const int fd = memfd_create("config", MFD_CLOEXEC);
    assert(fd >= 0);
    const ssize_t written = write(fd, text, text_size);
    assert(written == (ssize_t)text_size);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);

    config_init(&config);
    if (config_load_file(&config, path, error) != STATUS_OK) {
        assert(strlen(error) > 0);
        config_init(&config);
    }
    close(fd);
    while (input.size > 0) {
        char name[64];
        char value[8192];
        const size_t name_size = fuzz_text(&input, '=', name, sizeof name);
        fuzz_text(&input, '\n', value, sizeof value);
        const enum config_key key = config_key_find(name, name_size);
        if (key != CONFIG_KEY_COUNT &&
            config_set(&config, key, value, CONFIG_FLAG, error) != STATUS_OK) {
            assert(strlen(error) > 0);
        }
    }
    if (config_finish(&config, "a.holt", 2, error) == STATUS_OK) {
        assert(config.readers >= 1 && config.exchange_count >= 1);
        assert(config.connection_count_max >= 1 && config.read_slot_count >= 1);
        assert((config.socket_mode & ~0777u) == 0);
        assert(strlen(config.socket_path) > 0);
    } else {
        assert(strlen(error) > 0);
    }
    return 0;
}

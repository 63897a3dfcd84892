/* Runs a fuzz target over files, where libFuzzer is not: the target's corpus, or the files and
 * directories that are named. Prints how many there were; none is a failure.
 *
 *   fuzz_csv                      the corpus that this repository keeps
 *   fuzz_csv crash-0f3a... dir/   these */
#include <dirent.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "tests/fuzz/fuzz.h"

enum { PATH_SIZE = 4096, INPUT_SIZE_MAX = 1 << 20 };

static uint32_t input_count;

static bool run_file(const char *path)
{
    /* Exactly as large as the input, so that a sanitizer sees the first byte read behind it. */
    static uint8_t bytes[INPUT_SIZE_MAX];
    FILE *file = fopen(path, "re");
    if (file == NULL) {
        perror(path);
        return false;
    }
    const size_t size = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
    uint8_t *exact = malloc(size > 0 ? size : 1);
    if (exact == NULL) {
        abort();
    }
    memcpy(exact, bytes, size);
    LLVMFuzzerTestOneInput(exact, size);
    free(exact);
    input_count += 1;
    return true;
}

static bool run_path(const char *path)
{
    struct stat info;
    if (stat(path, &info) != 0) {
        perror(path);
        return false;
    }
    if (!S_ISDIR(info.st_mode)) {
        return run_file(path);
    }
    struct dirent **names;
    const int name_count = scandir(path, &names, NULL, alphasort);
    bool good = name_count >= 0;
    for (int i = 0; i < name_count; i++) {
        char file[PATH_SIZE];
        snprintf(file, sizeof file, "%s/%s", path, names[i]->d_name);
        good = (names[i]->d_name[0] == '.' || run_file(file)) && good;
        free(names[i]);
    }
    if (name_count >= 0) {
        free(names);
    }
    return good;
}

int main(int argc, char **argv)
{
    bool good = true;
    if (argc < 2) {
        good = run_path(FUZZ_CORPUS);
    }
    for (int i = 1; i < argc; i++) {
        good = run_path(argv[i]) && good;
    }
    printf("%u inputs\n", input_count);
    return good && input_count > 0 ? 0 : 1;
}

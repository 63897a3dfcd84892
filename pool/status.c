#include "pool/status.h"

const char *status_text(enum status status)
{
    switch (status) {
#define X(code, exit_code, text)                                                                   \
    case code:                                                                                     \
        return text;
        STATUS_MAP(X)
#undef X
    }
    return "unknown status";
}

int status_exit_code(enum status status)
{
    switch (status) {
#define X(code, exit_code, text)                                                                   \
    case code:                                                                                     \
        return exit_code;
        STATUS_MAP(X)
#undef X
    }
    return 70;
}

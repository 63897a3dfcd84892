/* The daemon's state as JSON: the body of a STAT reply. */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct dispatch;

/* The forest thread. Describes the first `groove_count` of dispatch->grooves. Returns `text`, or
 * NULL when it does not fit. */
const char *stat_text(struct dispatch *dispatch, uint32_t groove_count, char *text,
                      size_t text_size);

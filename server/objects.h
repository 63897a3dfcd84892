/* Printing the objects of a LOOKUP or QUERY reply. */
#pragma once

#include "server/remote.h"

/* Checks the untrusted reply against the shape. NULL: it does not fit, and that was said. */
const uint8_t *objects_decode(struct remote *remote, const struct shape *shape,
                              const struct client_reply *reply, uint32_t *count);

/* A table, or one JSON object on each line. */
void objects_print(const struct shape *shape, const uint8_t *images, uint32_t count, bool json);

/* What a life begins with: everything the daemon holds is read and compared.
 *
 * Where the life before ended without a word, writes were on their way. What is there must be the
 * model's state after so many of them, in the order in which the daemon had taken them, with all
 * that was told. The model then goes on from there. */
#pragma once

#include <stdbool.h>

#include "tests/sim/sim_front.h"

/* On the lane's fiber. False: the daemon stops, or something is broken so that not all can be read.
 */
bool sim_scan(struct sim_lane *lane);

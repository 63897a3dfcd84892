/* What must be linked around nng 1.5.2 to make it safe: see nng_repairs.c. */
#pragma once

#include <stdbool.h>

/* While on, this thread sees one processor when it asks for the number online. nng sizes its thread
 * pools by that, in the first call that initialises it, on the calling thread: on our machines two
 * task threads serve 16 to 46 % more requests than one for each processor and more
 * (a request crosses fewer of them). Nobody else is lied to. */
void nng_repairs_pretend_one_processor(bool on);

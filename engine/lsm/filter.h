/* Split-block Bloom filter, FILTER_BITS_PER_KEY bits a key: one 32-byte bucket of 8 words per key,
 * one bit in each word. (Putze, Sanders, Singler: Cache-, hash- and space-efficient Bloom filters,
 * 2007; the split-block form as Apache Impala and Parquet describe it.) One filter block covers
 * table_value_blocks_per_filter() value blocks, so a table's filter grows with what is in it. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* Hash of the bytes of a key that this tree filters by (XXH3-64). */
uint64_t filter_hash(const uint8_t *key, uint32_t size);
/* `filter` is `size` bytes, a multiple of 32, zeroed before the first add. */
void filter_add(uint8_t *filter, uint32_t size, uint64_t hash);
/* Has the processor fetch what filter_may_contain will look at. */
void filter_touch(const uint8_t *filter, uint32_t size, uint64_t hash);
bool filter_may_contain(const uint8_t *filter, uint32_t size, uint64_t hash);

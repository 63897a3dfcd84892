#!/usr/bin/env python3
"""Many reads and writes under way at once, from one thread: with futures, and with asyncio."""

import asyncio
import concurrent.futures

import holt

COUNT = 300

with holt.connect() as store:
    store.create("star", {"name": holt.text(16), "class": holt.text(1), "planets": holt.u8},
                 indexes={"class": holt.Index("class")}, exist_ok=True)
    stars = store.groove("star")

    # Nobody waits for the one before: what is under way at once shares messages and disk writes.
    futures = []
    for id in range(1, COUNT + 1):
        write = store.write()
        write.upsert(stars, id, name=f"star {id}", planets=id % 9, **{"class": "OBAFGKM"[id % 7]})
        futures.append(write.submit())
    concurrent.futures.wait(futures)
    print(sum(future.exception() is None for future in futures), "written")

    lookups = [stars.submit_get(id) for id in range(1, COUNT + 1)]
    print(sum(future.result().planets for future in lookups), "planets")

    async def census():
        """The same with asyncio, which can do other things meanwhile."""
        counts = await asyncio.gather(*(asyncio.wrap_future(stars.submit_count("class", **{"class": one}))
                                        for one in "OBAFGKM"))
        suns = await asyncio.wrap_future(stars.submit_query("class", limit=3, **{"class": "G"}))
        return counts, [sun.name for sun in suns]

    print(*asyncio.run(census()))

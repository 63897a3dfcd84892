#!/usr/bin/env python3
"""What goes wrong is an exception, and what each means can be told from its class."""

import holt

with holt.connect() as store:
    store.create("thing", {"name": holt.text(8), "size": holt.u8}, exist_ok=True)
    things = store.groove("thing")
    things.upsert(1, name="one")

    try:
        things.insert(1, name="one")
    except holt.Failures as error:
        print([(failure.event, failure.name) for failure in error.failures])
    for wrong in ({"name": "far too long"}, {"size": 256}, {"size": -1}, {"size": "big"},
                  {"colour": 3}):
        try:
            things.upsert(1, **wrong)
        except (ValueError, TypeError) as error:
            print(f"{type(error).__name__}: {error}")
    try:
        store.groove("nothing")
    except LookupError as error:
        print(error)

    # Many writes under way at once, from one thread.
    futures = []
    for id in range(100, 200):
        write = store.write()
        write.upsert(things, id, name=str(id))
        futures.append(write.submit())
    print(len({future.result().commit_number for future in futures}) > 0, len(things))

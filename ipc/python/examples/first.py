#!/usr/bin/env python3
"""A groove, some objects, and questions about them. The socket is $HOLT_SOCKET's."""

import holt

with holt.connect() as store:
    store.create("town", {"name": holt.text(40), "country": holt.text(2), "people": holt.u32,
                          "latitude": holt.f64},
                 indexes={"country": holt.Index("country")}, exist_ok=True)
    towns = store.groove("town")

    with store.write() as write:
        write.upsert(towns, 1, name="Vaduz", country="LI", people=5450, latitude=47.14)
        write.upsert(towns, 2, name="Schaan", country="LI", people=5998, latitude=47.16)
        write.upsert(towns, 3, name="Graz", country="AT", people=298479, latitude=47.07)

    for town in towns.query("country", country="LI"):
        print(f"{town.name}: {town.people} people")

    towns.update(towns[3].replace(people=300000), if_unchanged=True)
    print(towns[3])
    print(len(towns), "towns,", towns.count("country", country="LI"), "of them in Liechtenstein")

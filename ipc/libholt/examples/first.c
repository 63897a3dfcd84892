/* A groove, some objects, and questions about them.
 *
 *   gcc first.c $(pkg-config --cflags --libs holt) -o first
 *   HOLT_SOCKET=/path/to/data.holt.sock ./first */
#include <holt.h>
#include <stdio.h>
#include <stdlib.h>

static struct holt_error error;

/* Every function tells how it ended; here the first failure ends the program. */
static void must(enum holt_status status, const char *what)
{
    if (status != HOLT_OK) {
        fprintf(stderr, "%s: %s\n", what,
                error.status == status ? error.text : holt_status_text(status));
        exit(1);
    }
}

/* The groove `city`, made if it is not there yet. */
static struct holt_groove *open_cities(struct holt *holt)
{
    const struct holt_field_spec fields[] = {
        {.name = "name", .type = HOLT_TYPE_TEXT, .size = 40},
        {.name = "country", .type = HOLT_TYPE_TEXT, .size = 2},
        {.name = "people", .type = HOLT_TYPE_U32},
        {.name = "latitude", .type = HOLT_TYPE_F64},
    };
    const struct holt_index_spec indexes[] = {{.name = "country", .fields = {"country"}}};
    const struct holt_groove_spec spec = {.name = "city",
                                          .fields = fields,
                                          .field_count = sizeof fields / sizeof fields[0],
                                          .indexes = indexes,
                                          .index_count = 1};
    const enum holt_status status = holt_groove_create(holt, &spec, 0, &error);
    if (status != HOLT_GROOVE_EXISTS) {
        must(status, "create");
    }
    struct holt_groove *cities;
    must(holt_groove_open(holt, "city", 0, &cities, &error), "open");
    return cities;
}

int main(void)
{
    static const struct {
        const char *name;
        const char *country;
        uint32_t people;
        double latitude;
    } rows[] = {
        {"Vaduz", "LI", 5450, 47.14}, {"Schaan", "LI", 5998, 47.16}, {"Graz", "AT", 298479, 47.07}};
    struct holt *holt;
    must(holt_open(NULL, &holt, &error), "connect");
    struct holt_groove *cities = open_cities(holt);

    /* An object is a piece of memory, filled field by field. */
    const struct holt_field *name = holt_groove_field(cities, "name");
    const struct holt_field *country = holt_groove_field(cities, "country");
    const struct holt_field *people = holt_groove_field(cities, "people");
    const struct holt_field *latitude = holt_groove_field(cities, "latitude");
    void *object = calloc(1, holt_groove_object_size(cities));
    struct holt_write *write;
    must(holt_write_new(holt, &write), "write");
    for (uint64_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        holt_object_set_id(object, (struct holt_id){.low = i + 1});
        must(holt_set_text(name, object, rows[i].name), "name");
        must(holt_set_text(country, object, rows[i].country), "country");
        must(holt_set_unsigned(people, object, rows[i].people), "people");
        must(holt_set_real(latitude, object, rows[i].latitude), "latitude");
        must(holt_write_upsert(write, cities, object), "upsert");
    }
    must(holt_write_commit(write, 0, &error), "commit"); /* They are on the disk now. */

    /* By an index: all objects that have the values of an example in its fields. */
    struct holt_read *read;
    must(holt_set_text(country, object, "LI"), "country");
    must(holt_query(holt, cities, "country", object, 0, 0, &read, &error), "query");
    for (uint32_t i = 0; i < holt_read_object_count(read); i++) {
        const void *found = holt_read_object(read, i);
        const void *text;
        size_t size;
        uint64_t count;
        must(holt_get_bytes(name, found, &text, &size), "name");
        must(holt_get_unsigned(people, found, &count), "people");
        printf("%.*s: %llu people\n", (int)size, (const char *)text, (unsigned long long)count);
    }
    holt_read_free(read);

    /* By id, change, and write back. */
    const struct holt_id graz = {.low = 3};
    must(holt_lookup(holt, cities, &graz, 1, 0, &read, &error), "lookup");
    if (holt_read_object_count(read) != 1) {
        fprintf(stderr, "Graz is gone\n");
        return 1;
    }
    void *changed = (void *)holt_read_object(read, 0); /* It is ours until the read is freed. */
    must(holt_set_unsigned(people, changed, 300000), "people");
    holt_write_clear(write);
    must(holt_write_update(write, cities, changed), "update");
    must(holt_write_commit(write, 0, &error), "commit");
    holt_read_free(read);

    uint64_t count;
    must(holt_count(holt, cities, NULL, NULL, 0, &count, &error), "count");
    printf("%llu cities\n", (unsigned long long)count);

    free(object);
    holt_write_free(write);
    holt_groove_close(cities);
    holt_close(holt);
    return 0;
}

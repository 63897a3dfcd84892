/* Money moves between two accounts, and a record of it is made: all of it, or nothing, whoever else
 * moves money at the same time. Each account is written only if it is still as it was read.
 *
 *   ./transfer FROM TO AMOUNT      makes the accounts, with 1000 each, if they are not there */
#include <holt.h>
#include <stdio.h>
#include <stdlib.h>

static struct holt *holt;
static struct holt_groove *accounts;
static struct holt_groove *transfers;
static struct holt_error error;

static void must(enum holt_status status, const char *what)
{
    if (status != HOLT_OK) {
        fprintf(stderr, "%s: %s\n", what,
                error.status == status ? error.text : holt_status_text(status));
        exit(1);
    }
}

static struct holt_groove *open_groove(const struct holt_groove_spec *spec)
{
    struct holt_groove *groove;
    const enum holt_status status = holt_groove_create(holt, spec, 0, &error);
    if (status != HOLT_GROOVE_EXISTS) {
        must(status, "create");
    }
    must(holt_groove_open(holt, spec->name, 0, &groove, &error), "open");
    return groove;
}

static void open_grooves(void)
{
    const struct holt_field_spec balance[] = {{.name = "balance", .type = HOLT_TYPE_U64}};
    const struct holt_field_spec record[] = {
        {.name = "source", .type = HOLT_TYPE_U128},
        {.name = "target", .type = HOLT_TYPE_U128},
        {.name = "amount", .type = HOLT_TYPE_U64},
    };
    accounts = open_groove(
        &(struct holt_groove_spec){.name = "account", .fields = balance, .field_count = 1});
    transfers = open_groove(
        &(struct holt_groove_spec){.name = "transfer", .fields = record, .field_count = 3});
}

/* Makes an account if there is none: the guard is part of the write. */
static void make_account(struct holt_id id)
{
    void *object = calloc(1, holt_groove_object_size(accounts));
    struct holt_write *write;
    holt_object_set_id(object, id);
    must(holt_set_unsigned(holt_groove_field(accounts, "balance"), object, 1000), "balance");
    must(holt_write_new(holt, &write), "write");
    must(holt_write_insert(write, accounts, object), "insert");
    const enum holt_status status = holt_write_commit(write, 0, &error);
    if (status != HOLT_FAILURES) { /* EXISTS is as good. */
        must(status, "commit");
    }
    holt_write_free(write);
    free(object);
}

/* Adds to the balance of an account that was read, in the write, if it has not changed since.
 * False: there is not enough. */
static bool change(struct holt_write *write, struct holt_read *read, uint32_t position,
                   int64_t amount)
{
    const struct holt_field *field = holt_groove_field(accounts, "balance");
    void *object = (void *)holt_read_object(read, position);
    int64_t balance;
    must(holt_get_signed(field, object, &balance), "balance");
    if (balance + amount < 0) {
        return false;
    }
    must(holt_set_signed(field, object, balance + amount), "balance");
    const struct holt_event event = {
        .type = HOLT_UPDATE,
        .groove = accounts,
        .object = object,
        .guard = HOLT_GUARD_VERSION,
        .version = holt_object_version(object),
        .linked = true, /* with what follows */
    };
    must(holt_write_event(write, &event), "update");
    return true;
}

static void record_transfer(struct holt_write *write, const struct holt_id ids[2], uint64_t amount)
{
    void *object = calloc(1, holt_groove_object_size(transfers));
    struct holt_id id;
    if (!holt_id_random(&id)) {
        exit(1);
    }
    holt_object_set_id(object, id);
    must(holt_set_u128(holt_groove_field(transfers, "source"), object, ids[0]), "source");
    must(holt_set_u128(holt_groove_field(transfers, "target"), object, ids[1]), "target");
    must(holt_set_unsigned(holt_groove_field(transfers, "amount"), object, amount), "amount");
    must(holt_write_insert(write, transfers, object), "insert"); /* Not linked: the chain's end. */
    free(object);
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "usage: transfer FROM TO AMOUNT\n");
        return 2;
    }
    const struct holt_id ids[2] = {{.low = strtoull(argv[1], NULL, 10)},
                                   {.low = strtoull(argv[2], NULL, 10)}};
    const uint64_t amount = strtoull(argv[3], NULL, 10);
    must(holt_open(NULL, &holt, &error), "connect");
    open_grooves();
    make_account(ids[0]);
    make_account(ids[1]);

    struct holt_write *write;
    must(holt_write_new(holt, &write), "write");
    bool moved = false;
    bool enough = true;
    while (!moved && enough) {
        struct holt_read *read;
        must(holt_lookup(holt, accounts, ids, 2, 0, &read, &error), "lookup");
        holt_write_clear(write);
        enough =
            change(write, read, 0, -(int64_t)amount) && change(write, read, 1, (int64_t)amount);
        if (enough) {
            record_transfer(write, ids, amount);
            const enum holt_status status = holt_write_commit(write, 0, &error);
            /* HOLT_FAILURES: somebody else was faster, a guard did not hold, nothing happened. */
            if (status != HOLT_FAILURES) {
                must(status, "commit");
                moved = true;
            }
        }
        holt_read_free(read);
    }
    printf(moved ? "moved\n" : "not enough\n");
    holt_write_free(write);
    holt_groove_close(accounts);
    holt_groove_close(transfers);
    holt_close(holt);
    return 0;
}
